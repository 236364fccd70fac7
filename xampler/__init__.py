"""XAMPLER: label text in 500+ languages from English examples."""

from xampler.models import embed_texts, score_demonstrations, score_labels

__version__ = "0.1.0"
__all__ = ["embed_texts", "score_demonstrations", "score_labels"]
