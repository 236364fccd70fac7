"""Reading the parallel text."""

from __future__ import annotations

from pathlib import Path

import pytest

from xampler.errors import DataError
from xampler.mini.data import read_corpus


def _write(folder: Path, lang: str, content: str) -> None:
    path = folder / lang / "train.tsv"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("utf-8"))


def test_quotes_and_blanks_are_read_and_meanings_aligned_by_id(tmp_path: Path) -> None:
    _write(tmp_path, "eng_Latn", 'index_id\tcategory\ttext\n9\tb\t"say ""hi"""\n10\ta\t two \n')
    _write(tmp_path, "fra_Latn", "index_id\tcategory\ttext\n10\ta\tdeux\n9\tb\tun\n")
    corpus = read_corpus(tmp_path, "train")
    assert corpus.labels == ("a", "b")
    assert [corpus.texts_S[row] for row in corpus.rows_of("eng_Latn")] == ['say "hi"', "two"]
    assert [corpus.texts_S[row] for row in corpus.rows_of("fra_Latn")] == ["un", "deux"]
    assert corpus.label_M.tolist() == [1, 0]
    assert corpus.rows_of("deu_Latn").size == 0


@pytest.mark.parametrize(
    "content",
    [
        "",
        "index_id\tcategory\ttext\n",
        "index_id\ttext\n1\tx\n",
        "index_id\tcategory\ttext\n1\ta\n",
        'index_id\tcategory\ttext\n1\ta\t"open\n',
    ],
    ids=["empty", "header only", "missing column", "short row", "broken quoting"],
)
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    _write(tmp_path, "eng_Latn", content)
    with pytest.raises(DataError, match=r"train\.tsv"):
        read_corpus(tmp_path, "train")


def test_invalid_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "eng_Latn" / "train.tsv"
    path.parent.mkdir()
    path.write_bytes(b"index_id\tcategory\ttext\n1\ta\t\xff\n")
    with pytest.raises(DataError, match=r"train\.tsv"):
        read_corpus(tmp_path, "train")


def test_english_must_be_there(tmp_path: Path) -> None:
    _write(tmp_path, "fra_Latn", "index_id\tcategory\ttext\n1\ta\tun\n")
    with pytest.raises(DataError, match="eng_Latn"):
        read_corpus(tmp_path, "train")
