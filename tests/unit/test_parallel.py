"""Parallel texts: from tables, from two files, from lists; guesses are told, and what cannot be read is one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from bothways.data.parallel import ParallelColumns, aligned, parallel
from bothways.data.table import TableSource
from bothways.errors import InputError


def read(path: Path, source: str | None = None, target: str | None = None, **options: Any) -> tuple[str, list[Any]]:
    columns = ParallelColumns(source, target)
    with parallel(TableSource(str(path)), columns, **options) as found:
        return found.said, [(row.source, row.targets) for row in found.rows]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


PAIRS = [("a dog runs", "ein Hund rennt"), ("two cats", "zwei Katzen")]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("source", "target"), "source 'source', target 'target'"),
        (("Article", "Highlights"), "source 'Article', target 'Highlights'"),
        (("en", "de"), "source 'en', target 'de'"),  # by their places
        (("src", "de"), "source 'src', target 'de'"),
        (("en", "summary"), "source 'en', target 'summary'"),
    ],
)
def test_columns_are_found_by_name_then_by_place(names: tuple[str, str], said: str, tmp_path: Path) -> None:
    rows = [{"id": i, names[0]: one, names[1]: other} for i, (one, other) in enumerate(PAIRS)]
    told, found = read(lines(tmp_path / "rows.jsonl", rows))
    assert found == [(one, (other,)) for one, other in PAIRS]
    assert said in told


def test_columns_that_are_said_win(tmp_path: Path) -> None:
    rows = [{"source": other, "target": one, "en": one, "de": other} for one, other in PAIRS]
    _, found = read(lines(tmp_path / "rows.jsonl", rows), "en", "de")
    assert found == [(one, (other,)) for one, other in PAIRS]


@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_no_row_is_lost_where_there_are_no_names(suffix: str, tmp_path: Path) -> None:
    """Texts are different in each row, which therefore tells no first row apart."""
    path, between = tmp_path / f"pairs.{suffix}", "\t" if suffix == "tsv" else ","
    path.write_text("".join(f"{one}{between}{other}\n" for one, other in PAIRS), encoding="utf-8")
    told, found = read(path)
    assert found == [(one, (other,)) for one, other in PAIRS]
    assert "source '1', target '2'" in told
    assert "no names, so columns are numbered from 1" in told
    with pytest.raises(InputError, match="has no column 'en'; it has 1, 2; if its first row holds names, say --header"):
        read(path, "en")


def test_names_that_are_guessed_can_be_denied(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    path.write_text("dog\tHund\na house\tein Haus\nthe red mat\tdie rote Matte\n")
    told, found = read(path)
    assert len(found) == 2
    assert told.endswith("names in the first row; if that is a row like the others, say --no-header)")
    denied = TableSource(str(path), header=False)
    with parallel(denied) as rows:
        assert [row.source for row in rows.rows] == ["dog", "a house", "the red mat"]
    said = "has no column '1'; it has dog, Hund; if its first row holds no names, say --no-header"
    with pytest.raises(InputError, match=said):
        read(path, "1")
    path.write_text("source\ttarget\na house\tein Haus\nthe mat\tdie Matte\n")
    assert read(path)[0].endswith("names in the first row)")  # nobody could doubt that


def test_lists_of_sentences_are_one_source_and_several_targets(tmp_path: Path) -> None:
    """SciTLDR's form."""
    rows = [
        {"source": ["We read.", " ", "We write."], "source_labels": [0, 1], "target": ["Reading.", "Writing."]},
        {"source": ["Once."], "source_labels": [1], "target": ["Only.", ""]},
    ]
    _, found = read(lines(tmp_path / "rows.jsonl", rows))
    assert found == [("We read. We write.", ("Reading.", "Writing.")), ("Once.", ("Only.",))]


def test_csv_tsv_and_parquet_are_read_alike(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "a.csv").write_text('en,de\n"a dog, runs",ein Hund\nx y,z\n', encoding="utf-8")
    (tmp_path / "a.tsv").write_text("en\tde\na dog, runs\tein Hund\nx y\tz\n", encoding="utf-8")
    table = pa.table({"en": ["a dog, runs", "x y"], "de": [["ein Hund"], ["z"]]})
    parquet.write_table(table, tmp_path / "a.parquet")
    for name in ("a.csv", "a.tsv", "a.parquet"):
        assert read(tmp_path / name, "en", "de")[1] == [("a dog, runs", ("ein Hund",)), ("x y", ("z",))]


def test_lines_of_two_files_go_together(tmp_path: Path) -> None:
    source, target = tmp_path / "a.en", tmp_path / "a.de.gz"
    source.write_text("a dog\r\ntwo cats\n", encoding="utf-8")
    target.write_bytes(gzip.compress("ein Hund\nzwei Kätzchen".encode()))
    with aligned(str(source), str(target)) as found:
        rows = list(found.rows)
    assert [(row.source, row.targets) for row in rows] == [("a dog", ("ein Hund",)), ("two cats", ("zwei Kätzchen",))]
    assert rows[1].place == f"{source}: line 2"


@pytest.mark.parametrize(("ours", "theirs", "said"), [(5, 3, "5 lines, .*a.de 3"), (2, 7, "2 lines, .*a.de 7")])
def test_files_of_different_lengths_are_told_with_both_counts(
    ours: int, theirs: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.en").write_text("one\n" * ours)
    (tmp_path / "a.de").write_text("eins\n" * theirs)
    with aligned(str(tmp_path / "a.en"), str(tmp_path / "a.de")) as found, pytest.raises(InputError, match=said):
        list(found.rows)


def test_an_empty_side_is_named_by_its_row_or_passed_over(tmp_path: Path) -> None:
    rows = lines(tmp_path / "a.jsonl", [{"source": "a", "target": "b"}, {"source": " ", "target": "c"}])
    with pytest.raises(InputError, match=r"a.jsonl: line 2: its source \('source'\) is empty; say --skip-empty"):
        read(rows)
    none = lines(tmp_path / "b.jsonl", [{"source": "a", "target": []}])
    with pytest.raises(InputError, match=r"line 1: its target \('target'\) is empty"):
        read(none)
    assert read(none, targets=False)[1] == [("a", ())]
    with parallel(TableSource(str(rows)), skip_empty=True) as found:
        assert [row.source for row in found.rows] == ["a"]
        assert found.empty == 1
    (tmp_path / "a.en").write_text("one\n\nthree\n")
    (tmp_path / "a.de").write_text("eins\nzwei\n\n")
    said = r"a.en: line 2: its source \('.*a.en'\) is empty"
    with aligned(str(tmp_path / "a.en"), str(tmp_path / "a.de")) as found, pytest.raises(InputError, match=said):
        list(found.rows)
    with aligned(str(tmp_path / "a.en"), str(tmp_path / "a.de"), skip_empty=True) as found:
        assert [row.source for row in found.rows] == ["one"]
        assert found.empty == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "a b", "kind": 3}, "cannot tell which column is the target; say --target; it has text, kind"),
        ({"source": "a b", "target": 3}, "line 1: 'target' is not a text but int"),
        ({"source": [["a"]], "target": "b"}, "line 1: 'source' is not a text but list"),
        ({"a": "x y", "b": "y z", "c": "z x"}, "cannot tell which column is the source"),
    ],
)
def test_what_cannot_be_read_is_one_line(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as raised:
        read(lines(tmp_path / "a.jsonl", [row]))
    assert "\n" not in str(raised.value)


def test_a_column_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"english": "a", "german": "b"}])
    with pytest.raises(InputError, match="has no column 'germn'; it has english, german; did you mean 'german'"):
        read(path, "english", "germn")


def test_a_table_without_targets_will_do_where_none_are_needed(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"document": "a"}, {"document": "b"}])
    assert read(path, targets=False)[1] == [("a", ()), ("b", ())]


def test_targets_that_are_not_needed_are_neither_read_nor_told(tmp_path: Path) -> None:
    """They still tell which column is no source."""
    path = lines(tmp_path / "a.jsonl", [{"en": "a dog", "summary": 3}, {"en": "a cat", "summary": ["x", None, 4]}])
    told, found = read(path, targets=False)
    assert found == [("a dog", ()), ("a cat", ())]
    assert told.endswith("source 'en'")
    assert read(lines(path, [{"x": "a b", "y": "b c"}]), target="x", targets=False)[1] == [("b c", ())]
    for only in ([{"title": "a b", "id": 3}, {"title": "b c", "id": 4}], [{"fr": "un chat", "pages": 7}]):
        wanted = [(next(iter(row.values())), ()) for row in only]
        assert read(lines(path, only), targets=False)[1] == wanted
    twice = tmp_path / "a.csv"
    twice.write_text("source,target,target\na b,c d,e f\n")
    assert read(twice, targets=False)[1] == [("a b", ())]
    with pytest.raises(InputError, match="2 columns called 'target'"):
        read(twice)
