import numpy as np

from xampler.core.ports import Encoder, LanguageModel
from xampler.core.prompt import Demonstration, build_prompt
from xampler.core.task import Task
from xampler.models.fake import FakeEncoder, FakeLanguageModel

TASK = Task(name="toy", labels=("sports", "science/technology", "science"))


def test_label_of_the_nearest_demonstration_wins() -> None:
    model: LanguageModel = FakeLanguageModel()
    shots = [
        Demonstration("the match was won", "sports"),
        Demonstration("a new telescope", "science/technology"),
    ]
    near_sports = build_prompt(TASK, "our team won the match", shots)
    near_science = build_prompt(TASK, "telescope", shots)
    scores = model.score_labels([near_sports, near_science], TASK.label_words)
    assert scores.argmax(1).tolist() == [0, 1]
    np.testing.assert_allclose(np.exp(scores).sum(1), 1)
    np.testing.assert_array_equal(scores, model.score_labels([near_sports, near_science], TASK.label_words))


def test_no_two_labels_tie() -> None:
    scores = FakeLanguageModel().score_labels(["nothing shown"], TASK.label_words)
    assert len(set(scores[0])) == 3


def test_tokens_are_words() -> None:
    model = FakeLanguageModel()
    assert model.count_tokens(["a b  c", ""]) == [3, 0]
    assert model.truncate("a b c", 2) == "a b"
    assert model.truncate("a  b", 2) == "a  b"
    assert model.score_labels([], ["x"]).shape == (0, 1)


def test_fake_vectors_are_near_where_words_are_shared() -> None:
    encoder: Encoder = FakeEncoder()
    vectors = encoder.encode(["the match was won", "the match was lost", "новый телескоп", ""])
    assert vectors.dtype == np.float32
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 2]
    np.testing.assert_allclose(np.diag(similarity)[:3], 1, rtol=1e-6)
    np.testing.assert_array_equal(vectors[3], 0)
