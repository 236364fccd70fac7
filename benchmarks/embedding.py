"""Sentence vectors: ours beside ``SentenceTransformer.encode``.

Shapes: N texts, D dimensions, S sentences of a corpus.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from benchmarks import Measurement, Way, markdown_table, measure
from xampler.core.ranking import cosine_similarity, top_k
from xampler.mini.data import ParallelCorpus
from xampler.models.build import EncoderConfig, encoder_folder, load_encoder

_TEXTS = 408
_NEAREST = 10
_XLMR_ROWS, GLOT500_ROWS = 250_002, 401_145
_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
# ISO 639-3 codes of the languages that XLM-R's tokenizer was trained on, as SIB-200 writes them.
_XLMR_LANGUAGES = (
    "afr als amh arb asm azj bel ben bos bul cat ces cym dan deu ell eng epo est "  # codespell:ignore
    "eus fin fra gla gle glg guj hau heb hin hrv hun hye ind isl ita jav jpn kan "  # codespell:ignore
    "kat kaz khk khm kir kmr kor lao lat lit lvs mal mar mkd mya nld nob npi ory "  # codespell:ignore
    "pan pbt pes plt pol por ron rus san sin slk slv snd som spa srp sun swe swh "  # codespell:ignore
    "tam tel tgl tha tur uig ukr urd uzn vie xho ydd zho zsm"  # codespell:ignore
)
EMBEDDING_HEADER = (
    "encoder",
    "way",
    "sentences",
    "sentences/s",
    "CPU ms a sentence",
    "x sentence-transformers",
    "x in CPU time",
    "off ours",
    f"top-{_NEAREST} overlap",
)


def run_embedding(pool: ParallelCorpus, tests: ParallelCorpus) -> str:
    """Measure the shipped encoders and one of XLM-R's shape on the same sentences; a table in Markdown."""
    texts = sentences_of_all_languages(tests)
    with TemporaryDirectory() as folder:
        make_xlmr_shape(Path(folder), pool)
        names = {"mini": "mini", "minilm": "minilm", "XLM-R shape": folder}
        rows = [
            cells
            for name, model in names.items()
            for cells in encoder_rows(name, measure(encoder_ways(model), texts))
        ]
    return markdown_table(EMBEDDING_HEADER, rows)


def sentences_of_all_languages(corpus: ParallelCorpus) -> list[str]:
    """408 different sentences, as many of each language as of any other."""
    rng = np.random.default_rng(2)
    each = -(-_TEXTS // len(corpus.langs))
    rows = [rng.permutation(corpus.rows_of(lang))[:each] for lang in corpus.langs]
    different = sorted({corpus.texts_S[row] for own in rows for row in own})
    rng.shuffle(different)
    return different[:_TEXTS]


def make_xlmr_shape(
    folder: Path, corpus: ParallelCorpus, *, rows: int = _XLMR_ROWS, layers: int = 4, hidden: int = 384
) -> None:
    """An XLM-R with random weights, ``rows`` of the vocabulary and a tokenizer of its own.

    Like XLM-R's it has seen some 90 languages, so that sentences of all others, and of other scripts, fall
    into many more tokens.
    """
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=rows,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=4 * hidden,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    known = [
        row for lang in corpus.langs if lang[:3] in _XLMR_LANGUAGES.split() for row in corpus.rows_of(lang)
    ]
    trainer = trainers.BpeTrainer(vocab_size=_XLMR_ROWS, special_tokens=list(_SPECIALS), show_progress=False)
    tokenizer.train_from_iterator((corpus.texts_S[row] for row in known), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    ).save_pretrained(folder)


def encoder_ways(model: str, device: str = "cpu") -> list[Way]:
    """Theirs and ours, each in float32 and in bfloat16."""
    whole = EncoderConfig(model=model, device=device)
    half = EncoderConfig(model=model, device=device, dtype="bfloat16")
    return [
        Way("sentence-transformers", _theirs(whole)),
        Way("sentence-transformers, bf16", _theirs(half)),
        Way("xampler", load_encoder(whole).encode),
        Way("xampler, bf16", load_encoder(half).encode),
    ]


def _theirs(config: EncoderConfig) -> Callable[[list[str]], NDArray[np.floating]]:
    kwargs = {"dtype": getattr(torch, config.dtype)}
    theirs = SentenceTransformer(str(encoder_folder(config)), device=config.device, model_kwargs=kwargs)
    theirs.max_seq_length = min(theirs.max_seq_length or config.max_tokens, config.max_tokens)

    def encode(texts: list[str]) -> NDArray[np.floating]:
        vectors_ND: NDArray[np.floating] = theirs.encode(texts, show_progress_bar=False)
        return vectors_ND.astype(np.float32)

    return encode


def encoder_rows(encoder: str, measured: Sequence[Measurement]) -> list[list[str]]:
    """Of the table, in the order of :func:`encoder_ways`."""
    theirs, _, ours, _ = measured
    return [
        [
            encoder,
            one.way.name,
            str(one.texts),
            f"{1 / one.wall_s:,.0f}",
            f"{1000 * one.cpu_s:,.2f}",
            f"{theirs.wall_s / one.wall_s:.1f}",
            f"{theirs.cpu_s / one.cpu_s:.1f}",
            "" if one is ours else f"{one.deviation_from(ours):.0e}",
            "" if one is ours else f"{_overlap(one.rows_ND, ours.rows_ND):.1%}",
        ]
        for one in measured
    ]


def _overlap(left_ND: NDArray[np.floating], right_ND: NDArray[np.floating]) -> float:
    """Mean share of each text's nearest others that both find, among the first 408."""
    near = [_nearest(vectors_ND) for vectors_ND in (left_ND, right_ND)]
    return float(np.mean([len(set(a) & set(b)) / _NEAREST for a, b in zip(*near, strict=True)]))


def _nearest(vectors_ND: NDArray[np.floating]) -> list[list[int]]:
    whole_ND = vectors_ND[:_TEXTS].astype(np.float32)
    ids = [f"{number:06}" for number in range(len(whole_ND))]
    itself_NN = np.eye(len(whole_ND), dtype=bool)
    found = top_k(cosine_similarity(whole_ND, whole_ND), ids, _NEAREST, itself_NN)
    return [list(map(int, numbers)) for numbers in found]
