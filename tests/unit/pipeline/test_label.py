import pandas as pd

from xampler.core.prompt import PromptConfig
from xampler.core.task import Task
from xampler.models.build import EncoderConfig, LanguageModelConfig, scorer_id
from xampler.models.fake import FakeEncoder
from xampler.models.index import CandidatePool, EncoderIndex
from xampler.models.labeller import Labeller, LabellerSpec
from xampler.pipeline.label import label_rows


def test_rows_say_what_their_prompts_lost() -> None:
    texts = ("The team won the match. " * 6, "The law passed. " * 6)
    pool = CandidatePool(("a", "b"), texts, ("sports", "politics"))
    model = LanguageModelConfig(model="mini", device="cpu", max_tokens=80)
    spec = LabellerSpec(
        task=Task(name="t", labels=("sports", "politics")),
        pool_lang="eng_Latn",
        demonstrations=2,
        prompt=PromptConfig(),
        language_model=model,
        scorer_id=scorer_id(model),
        encoder=EncoderConfig(model="mini"),
    )
    encoder = FakeEncoder()
    labeller = Labeller(spec, pool, EncoderIndex(pool, encoder.encode(texts), encoder))
    queries = ["The team lost.", "The team lost. " * 40]
    rows = pd.DataFrame({"row_id": ["1", "2"], "text": queries, "lang": ["eng_Latn"] * 2}, index=[7, 3])
    labelled = label_rows(rows, labeller)
    assert labelled["row_id"].tolist() == ["1", "2"]
    assert set(labelled["label"]) <= {"sports", "politics"}
    assert labelled["demonstrations_dropped"].tolist() == [1, 1]
    assert labelled["texts_shortened"].tolist() == [0, 2]
    assert labelled["demonstration_ids"].tolist() == [["a"], ["a"]]
