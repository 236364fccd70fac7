"""The tokenizer that both mini models share: one vocabulary, two ways to add special tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from xampler.config import Config

BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
SPECIAL_TOKENS = (BOS, PAD, EOS, UNK, MASK)  # in XLM-R's order: its position ids count on the pad id 1
BOS_ID, PAD_ID, EOS_ID = 0, 1, 2
# A piece is a line break, one punctuation mark, symbol or digit, or a run of anything else, each with the
# space before it. Template and text therefore never share a token, and cutting a text moves no other token.
PIECES = r"\n|▁?[[\p{P}\p{S}]&&[^▁]]|▁?\p{N}|▁?[^▁\p{P}\p{S}\p{N}\n]+|▁"


class TokenizerConfig(Config):
    """How the vocabulary is made."""

    vocab_size: int = 32_000  # 205 languages at about 50 tokens a sentence; both embedding tables in 30 MB
    repeats: int = 500  # times each phrase is shown, so that every one of its words becomes one token


def train_tokenizer(texts: Iterable[str], phrases: Sequence[str], config: TokenizerConfig) -> Tokenizer:
    """Learn a byte-pair vocabulary on the texts and on the phrases of the prompts.

    Args:
        texts: training sentences in all languages.
        phrases: prompt templates and label words.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    tokenizer.train_from_iterator([*texts, *(list(phrases) * config.repeats)], trainer)
    return tokenizer


def encode_flat(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids of each text, without special tokens."""
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]


def encoder_tokenizer(tokenizer: Tokenizer, max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer in the encoder's form: ``<s> text </s>``."""
    return _wrap(tokenizer, f"{BOS} $A {EOS}", f"{BOS} $A {EOS} {EOS} $B {EOS}", max_length, "right")


def language_model_tokenizer(tokenizer: Tokenizer, max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer in the language model's form: ``<s> text``."""
    return _wrap(tokenizer, f"{BOS} $A", f"{BOS} $A $B", max_length, "left")


def _wrap(
    tokenizer: Tokenizer, single: str, pair: str, max_length: int, padding: str
) -> PreTrainedTokenizerFast:
    copy = Tokenizer.from_str(tokenizer.to_str())
    specials = [(token, copy.token_to_id(token)) for token in (BOS, EOS)]
    copy.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=copy,
        bos_token=BOS,
        eos_token=EOS,
        cls_token=BOS,
        sep_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        mask_token=MASK,
        padding_side=padding,
        model_max_length=max_length,
    )
