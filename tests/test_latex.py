"""Tables in LaTeX and as plain numbers: what a document that reads them, or a spreadsheet, is given."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import result

from retrieval.report import writing
from retrieval.report.__main__ import main
from retrieval.report.table import Cell, Table, escaped, slug

Write = Callable[..., Path]


def table(*lines: list[str], header: tuple[str, ...] = ("pooling", "a, 224 px", "a, 320 px")) -> Table:
    return Table("mAP", list(header), [[Cell(text) for text in line] for line in lines], 1)


def checked(text: str) -> list[list[str]]:
    """The cells of the rows of LaTeX tables; fails where braces, dollars, environments or columns do not match."""
    text = re.sub(r"(?m)^%.*\n", "", text)
    bare = re.sub(r"\\[{}$\\#%&_]", "", text)
    assert bare.count("$") % 2 == 0 and not re.search(r"[#%_~^|<>]", re.sub(r"\$[<>]\$", "", bare))
    depth = 0
    for sign in re.findall(r"[{}]", bare):
        depth += 1 if sign == "{" else -1
        assert depth >= 0
    assert depth == 0
    open_ones: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert not open_ones
    rows = []
    for columns, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        for line in re.findall(r"(?m)^ {4}(?! ?\\(?:top|mid|bottom|cmid)rule)(.*) \\\\$", body):
            cells = re.split(r"(?<!\\) & ", f" {line}")
            wide = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(cells) + wide == len(columns)
            rows.append([cell.strip() for cell in cells])
    return rows


def test_a_table_is_one_of_booktabs() -> None:
    text = table(["gem", "41.2 ± 0.3", "-"]).latex("map")
    assert [text.count(rf"\{rule}rule") for rule in ("top", "mid", "bottom")] == [1, 1, 1]
    assert r"\caption{mAP}" in text and r"\label{tab:map}" in text and r"gem & 41.2 $\pm$ 0.3 & - \\" in text


def test_columns_whose_titles_begin_alike_stand_below_one_heading() -> None:
    header = ("pooling", "a, 224 px", "a, 320 px", "b, 224 px", "p")
    text = table(["gem", "1", "2", "3", "4"], header=header).latex("map")
    assert r"\multicolumn{2}{c}{a}" in text and r"\cmidrule(lr){2-3}" in text
    assert r"pooling & 224 px & 320 px & b, 224 px & p \\" in text


def test_without_columns_that_begin_alike_there_is_one_row_of_titles() -> None:
    text = table(["gem", "1"], header=("pooling", "a, 224 px")).latex("map")
    assert "cmidrule" not in text and r"pooling & a, 224 px \\" in text


def test_the_best_is_bold_and_what_is_not_ours_in_italics() -> None:
    lines = [[Cell("gem"), Cell("41.2", best=True)], [Cell("theirs", link="https://example.org/a_b"), Cell("50.0")]]
    text = Table("mAP", ["source", "a"], lines, 1).latex("map")
    assert r"gem & \textbf{41.2}" in text and r"\emph{theirs} & \emph{50.0}" in text


def test_signs_of_latex_are_escaped() -> None:
    assert escaped(r"a_b & 5% #1 {x} $2 ~^\ <|>") == (
        r"a\_b \& 5\% \#1 \{x\} \$2 \textasciitilde{}\textasciicircum{}\textbackslash{} $<$\textbar{}$>$"
    )


def test_a_cell_is_no_argument_of_the_line_before_it() -> None:
    assert escaped("[224,320]").startswith("{}") and escaped("* 2").startswith("{}")


@given(st.lists(st.lists(st.text(max_size=12), min_size=3, max_size=3), min_size=1, max_size=4))
def test_any_text_leaves_the_table_whole(lines: list[list[str]]) -> None:
    rows = checked(table(*lines).latex("map"))
    assert len(rows) == 2 + len(lines)


def test_the_report_is_whole_whatever_the_names(write: Write, tmp_path: Path) -> None:
    write("a", result(0.4, resolution=320, backbone="resnet_10 & 50%"), result(0.3, pooling="[gem]", options="a={b}^2"))
    assert main([str(tmp_path), "--rows", "pooling", "options", "--published"]) == 0
    text = (tmp_path / "report.tex").read_text()
    assert len(checked(text)) > 20 and r"\item" in text


def test_the_report_says_how_a_document_reads_it(write: Write, tmp_path: Path) -> None:
    write("a", result())
    writing.write([tmp_path], tmp_path)
    head = re.match(r"(%.*\n)+", (tmp_path / "report.tex").read_text())
    assert head and r"\usepackage{booktabs}" in head[0] and r"\input{report}" in head[0]


def test_each_table_is_a_csv_file_of_unrounded_numbers(write: Write, tmp_path: Path) -> None:
    for seed, value in enumerate((0.41234, 0.43456)):
        write(f"{seed}", result(value, seed=seed))
    writing.write([tmp_path], tmp_path)
    with (tmp_path / "report_tables/map.csv").open() as file:
        (line,) = csv.DictReader(file)
    found = {name: float(line[f"landmarks, 224 px{name}"]) for name in ("", ", sd", ", n")}
    assert found == pytest.approx({"": 42.345, ", sd": 100 * 0.02222 / 2**0.5, ", n": 2})


def test_a_number_that_is_not_there_is_empty_in_a_csv_file() -> None:
    lines = [[Cell("gem"), Cell("1.0 ± 0.1", numbers={"mean": 1.0, "sd": 0.1})], [Cell("gap"), Cell("-")]]
    records = Table("mAP", ["pooling", "a"], lines, 1).records()
    assert records == [["pooling", "a", "a, sd"], ["gem", 1.0, 0.1], ["gap", "", ""]]


def test_tables_of_one_title_have_files_of_their_own() -> None:
    assert [*writing.named([table(), table(), table()])] == ["map", "map-2", "map-3"]


@given(st.text(max_size=200))
def test_the_name_of_a_file_is_short_and_plain(title: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]{1,80}", slug(title))
