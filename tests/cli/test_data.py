"""Files of columns in all formats, and how their columns are prepared."""

import datetime
import gzip
import importlib.util
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from kernels.__main__ import main

NEEDED = "the command line needs array-api-kernels[cli]"
for module in ("typer", "rich", "safetensors"):
    pytest.importorskip(module, reason=NEEDED)
pl = pytest.importorskip("polars", reason=NEEDED)
preparation, reading, table, text = (
    importlib.import_module(f"kernels.cli.data.{name}")
    for name in ("preparation", "reading", "table", "text")
)
CliError = table.CliError

N = 40
NUMBERS = np.random.default_rng(0).normal(size=N) * 100.0
TOWNS = ["Bern", "Paris, France", "Rome; Italy", 'the "Hague"', None]
FRAME = pl.DataFrame(
    {
        "size": NUMBERS,
        "count": pl.Series([None if i % 7 == 3 else i * i for i in range(N)]),
        "town": [TOWNS[i * i % 5] for i in range(N)],
        "born": [datetime.date(2000, 1, 1) + datetime.timedelta(days=31 * i) for i in range(N)],
        "kind": ["yes" if i % 3 else "no" for i in range(N)],
    }
)
TRAIN = np.arange(5, N)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sheet_of(path, content, **options):
    return reading.read_sheet(write(path / "d.csv", content), **options)


def learned(sheet, train=None, **options):
    train = np.arange(sheet.frame.height) if train is None else train
    return preparation.learn(sheet, train, preparation.Target("y"), **options)


def column(sheet, **options):
    """Learn the first column of a sheet."""
    return learned(sheet, **options).columns[0]


def refused(message, function, *arguments, **options):
    with pytest.raises(CliError, match=message):
        function(*arguments, **options)


# Forms

FORMS = {
    "plain.csv": lambda path: FRAME.write_csv(path),
    "semicolon.CSV": lambda path: FRAME.write_csv(
        path, separator=";", decimal_comma=True, quote_style="non_numeric"
    ),
    "tab.tsv": lambda path: FRAME.write_csv(path, separator="\t", line_terminator="\r\n"),
    "bar.txt": lambda path: FRAME.write_csv(path, separator="|"),
    "mark.csv": lambda path: FRAME.write_csv(path, include_bom=True),
    "blank.csv": lambda path: write(path, "\n\n" + FRAME.write_csv().replace("\nN", "\n\n\nN")),
    "packed.csv.gz": lambda path: FRAME.write_csv(path, compression="gzip"),
    "packed.tsv.zst": lambda path: FRAME.write_csv(path, separator="\t", compression="zstd"),
    "columns.parquet": lambda path: FRAME.write_parquet(path),
    "columns.feather": lambda path: FRAME.write_ipc(path, compression="lz4"),
    "stream.arrow": lambda path: FRAME.write_ipc_stream(path),
    "types.pq": lambda path: FRAME.cast(
        {"town": pl.Categorical, "count": pl.Decimal(12, 2), "born": pl.Datetime("ns", "UTC")}
    ).write_parquet(path),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_has_the_same_bits(name, tmp_path):
    FORMS[name](tmp_path / name)
    got = table.read_table(tmp_path / name, "kind", None)
    assert got.classes == ("no", "yes")
    assert got.y.tolist() == [int(kind == "yes") for kind in FRAME["kind"]]
    made = learned(got.x, TRAIN)
    assert [(each.name, each.kind) for each in made.columns] == [
        ("size", "number"),
        ("count", "number"),
        ("town", "category"),
        ("born", "date"),
    ]
    town = tuple(sorted(t or "" for t in set(TOWNS) & set(FRAME["town"][5:])))
    assert made.columns[2].categories == town
    assert made.columns[1].fill == float(np.median(FRAME["count"][5:].drop_nulls()))
    x = preparation.features(made, got.x)
    size = made.columns[0]
    np.testing.assert_array_equal(x[:, 0], (NUMBERS - size.mean) / size.deviation)
    days = [(day - datetime.date(1970, 1, 1)).days for day in FRAME["born"]]
    born = made.columns[3]
    np.testing.assert_array_equal(x[:, -1], (np.asarray(days) - born.mean) / born.deviation)
    first = [[float((t or "") == c) for c in town] for t in FRAME["town"]]
    np.testing.assert_array_equal(x[:, 2:-1], first)


def test_the_separator_is_what_makes_lines_equally_long_or_what_is_given(tmp_path):
    sheet = sheet_of(tmp_path, "a,b;c\n1,2;3\n4,5;6\n")
    assert sheet.frame.columns == ["a", "b;c"]
    sheet = sheet_of(tmp_path, "a,b;c\n1,2;3\n4,5;6\n", separator=";")
    assert sheet.frame.columns == ["a,b", "c"]
    assert sheet.frame.rows() == [(1.2000000000000000, 3), (4.5, 6)]


def test_runs_of_spaces_separate_where_nothing_else_does(tmp_path):
    content = '\n  size  \'n\' "the  kind"\n\n 1.5   2 "a  b"  \n10    30  x\n'
    sheet = sheet_of(tmp_path, content)
    assert sheet.frame.columns == ["size", "'n'", "the  kind"]
    assert sheet.frame.rows() == [(1.5, 2, "a  b"), (10, 30, "x")]
    assert sheet.place(1, "size").startswith("row 2 (line 5), column 'size'")
    rows = sheet_of(tmp_path, 'a\tb\tc d\n1 2 3\t"x y"\n4 5  6\tz\n').frame.rows()
    assert rows == [(1, 2, 3, "x y"), (4, 5, 6, "z")]
    # A cell may have spaces in it.
    assert sheet_of(tmp_path, "a b,c\n1 2,3\n").frame.columns == ["a b", "c"]
    assert sheet_of(tmp_path, "a b\nx\ny\n").frame.columns == ["a b"]
    assert sheet_of(tmp_path, "a,b c\n1,2  3\n", separator=" ").frame.columns == ["a,b", "c"]
    message = r"^expected 2 cells in every row, as in the header, got 1 in row 2 \(line 3\)"
    refused(message, sheet_of, tmp_path, "a b\n1  2\n3 \n", separator=" ")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "utf-16-be", "shift-jis"])
def test_an_encoding_that_is_named(encoding, tmp_path):
    """It is never guessed; but UTF-16 has a mark."""
    town = "\u6771\u4eac" if encoding == "shift-jis" else "K\xf6ln"
    content = f"a,town\r\n1,{town}\r\n".encode(encoding)
    frame = sheet_of(tmp_path, content, encoding=encoding).frame
    assert frame.rows() == [(1, town)]
    if encoding == "utf-16":
        assert sheet_of(tmp_path, content).frame.equals(frame)


@pytest.mark.parametrize("encoding", [None, "cp1252"])
def test_lines_of_an_old_mac(encoding, tmp_path):
    content = "a,town\r1,K\xf6ln\r2,Bonn\r\n".encode(encoding or "utf-8")
    frame = sheet_of(tmp_path, content, encoding=encoding).frame
    assert frame.rows() == [(1, "K\xf6ln"), (2, "Bonn")]


def test_encodings_that_are_refused(tmp_path):
    content = b"a,b\n1,\x81\n"
    refused(
        "^expected text in cp1252, got .*d.csv: .* 0x81 in position 6",
        sheet_of,
        tmp_path,
        content,
        encoding="cp1252",
    )
    message = "^expected --encoding to be one that Python knows, such as cp1252, got 'ansi-x'"
    refused(message, sheet_of, tmp_path, content, encoding="ansi-x")
    packed = write(tmp_path / "d.csv.gz", gzip.compress(content))
    message = "--encoding needs a file that is not compressed, got 'd.csv.gz'"
    refused(message, reading.read_sheet, packed, encoding="cp1252")
    path = tmp_path / "d.parquet"
    FRAME.write_parquet(path)
    refused("--encoding needs a file of text", reading.read_sheet, path, encoding="cp1252")


def test_a_point_anywhere_says_that_commas_are_none(tmp_path):
    sheet = sheet_of(tmp_path, "a;b\n1,234;5.5\n2,345;6.5\n")
    assert sheet.frame.rows() == [("1,234", 5.5), ("2,345", 6.5)]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        # Commas are decimal points, so that a point is in no number, wherever it comes.
        ("a;b\n1,234;0,5\n567;2\n", [(1.234, 0.5), (567, 2)]),
        ("a;b\n1.234;0,5\n567;2\n", [("1.234", 0.5), ("567", 2)]),
        (
            "a;b\n" + "0,5;x\n" * 200 + "0.5;x\n" * 200,
            [("0,5", "x")] * 200 + [("0.5", "x")] * 200,
        ),
        # Points are.
        ("a;b\n1,234;0.5\n567;2\n", [("1,234", 0.5), ("567", 2)]),
        ("a;b\n1.234;5\n567;2\n", [(1.234, 5), (567, 2)]),
        ("a;b\n1,234,567;5\n567;2\n", [("1,234,567", 5), ("567", 2)]),
        # And of quoted cells between commas always.
        ('a,b\n"1,234",5\n567,2\n', [("1,234", 5), ("567", 2)]),
    ],
)
def test_thousands_are_no_decimals(content, rows, tmp_path):
    assert sheet_of(tmp_path, content).frame.rows() == rows


def test_commas_that_may_be_either_are_refused(tmp_path):
    content = "a;b\n567;2\n12,345;3\n"
    message = "surely decimal points or .* got '12,345', which is 12.345 or 12345, in column 'a'"
    refused(message, sheet_of, tmp_path, content)
    assert sheet_of(tmp_path, content, drop=["a"]).frame.rows() == [(2,), (3,)]


def test_names_are_no_patterns(tmp_path):
    sheet = sheet_of(tmp_path, "*,b,^b\n1,x,NA\n3,y,1\n")
    assert sheet.frame.rows() == [(1, "x", None), (3, "y", 1)]
    path = tmp_path / "d.parquet"
    pl.DataFrame({"*": [1, 2], "b": [3, 4]}).write_parquet(path)
    assert reading.read_sheet(path, drop=["*"]).frame.columns == ["b"]
    read = table.read_table(write(path.with_suffix(".csv"), "*,b\n" + "1,x\n2,y\n" * 4), "*", None)
    assert read.x.frame.columns == ["b"]
    message = r"names that polars does not take for patterns, got '\^b\$' in "
    refused(message, sheet_of, tmp_path, "^b$,b\n1,2\n")


def test_numbers_are_those_of_python(tmp_path):
    cells = [
        "1e23",
        "0.1",
        "-0.0",
        "5e-324",
        "1.7976931348623157e308",
        "2.5",
        "16777217",
        ".5",
        "7.",
    ]
    cells += ["9007199254740993", "0.30000000000000004", "+1", " 1 ", '" 2"', "1E5"]
    (got,) = sheet_of(tmp_path, "a|b\n" + "".join(f"{cell}|1\n" for cell in cells)).frame[["a"]]
    assert got.to_list() == [float(cell.strip('"')) for cell in cells]


def in_pieces(monkeypatch, rows=2):
    """Let polars give a few rows at a time, as of a large file."""
    whole = text._pieces

    def pieces(*arguments, **options):
        for piece in whole(*arguments, **options):
            yield from (piece[i : i + rows] for i in range(0, piece.height, rows))

    monkeypatch.setattr(text, "_pieces", pieces)


def test_what_a_column_is_may_show_late(tmp_path, monkeypatch):
    in_pieces(monkeypatch)
    rows = [
        ("01", 1, 1),
        ("1", 2, "x"),
        ("NA", 1e-9, 3),
        *[("b", 300000, 4)] * 4,
        *[("c", 0.1, 5)] * 4,
    ]
    content = "code,wide,slip\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows)
    message = r"as in other cells of the column, got 'x' in row 2 \(line {}\), column 'slip' of"
    refused(message.format(3), sheet_of, tmp_path, content)
    refused(r"or leave the column out with --drop 'slip'$", sheet_of, tmp_path, content)
    # Blank rows do not count as rows, but as lines.
    blank = content.replace("\n1,2", '\n\n"","",""\n,,\n1,2')
    refused(message.format(6), sheet_of, tmp_path, blank)
    got = sheet_of(tmp_path, content, drop=["slip"]).frame
    assert got["code"].to_list() == [row[0] for row in rows]
    assert got["wide"].to_list() == [row[1] for row in rows]
    got = sheet_of(tmp_path, content, only=["slip"], text=["slip"]).frame
    assert got.rows() == [(str(row[2]),) for row in rows]


def test_reading_shows_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    sheet_of(tmp_path, "a,b\n1,2\n")
    assert "reading d.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "d.csv",
            "a,b\n1,2\n3\n",
            r"2 cells in every row, as in the header, got 1 in row 2 \(line 3",
        ),
        ("d.csv", "a,b\n1,2\n3,4,5\n", r"2 cells .* got 3 in row 2 \(line 3\) of .*d.csv"),
        ("d.csv", "a,b\n1,2\nx\ny", r"2 cells .* got 1 in row 2 \(line 3\) of .*d.csv"),
        ("d.csv", "\n \n", "a header row in .*d.csv, got blank lines"),
        ("d.csv", b"PK\3\4", "a file of text, got another format"),
        (
            "d.csv",
            "a,b\n1,2\n3,\xe9".encode("latin-1"),
            "text in UTF-8, got another encoding in line 3 of .*d.csv: name it with --encoding",
        ),
        ("d.csv", b"a,b\r1,\xe9\r", "text in UTF-8, got another encoding in line 1 of .*d.csv"),
        (
            "d.csv.gz",
            gzip.compress("a,b\n1,\xe9\n".encode("cp1252"), mtime=0),
            "text in UTF-8, got another encoding in .*d.csv.gz: name it with --encoding",
        ),
        (
            "d.tab",
            "a\tb\tc\td\nd\tcontinuous\tyes no\t\nclass\t\tmeta\nx\t1\ty\t2\n",
            "the names of columns in one line .* got Orange's two more lines, of types and roles",
        ),
        (
            "d.txt",
            '"a" "b" "c"\n"1" 1 2 x\n"2" 3 4 y\n',
            "a name for every cell, got 3 names and 4 cells in every row of .*d.txt, as R's",
        ),
        ("d.csv", "a,b\nr,1,2\ns,3,4\n", "a name for every cell, got 2 names and 3 cells"),
        ("d.csv", "a,b\n1,2,\n3,4,\n", r"2 cells .* got 3 in row 1 \(line 2\) of .*d.csv"),
        (
            "d.csv",
            "'a','b, c'\n1,2\n",
            "names in double quotes or none, got 'a','b, c' in single quotes in .*d.csv",
        ),
        ("d.csv", "a,b\n1,2\r3\n", "a CSV file, got .*d.csv: new-line character seen"),
        ("d.csv", 'a,b\n1,"2"3\n', "a CSV file, got .*d.csv: line 2"),
        ("d.parquet", b"PAR1", "the format that .parquet names, got .*d.parquet: "),
        ("d.feather", b"FEA1", "the format that .feather names, got .*d.feather: "),
        (
            "d.xls",
            b"",
            "a file that ends in .csv, .*, .npz, or text with .gz or .zst after that, got 'd.x",
        ),
        ("d.parquet.gz", b"", "a file that ends in .*, got 'd.parquet.gz'"),
        ("csv", b"", "a file that ends in .csv, .*, got 'csv'"),
    ],
)
def test_files_that_are_refused(name, content, message, tmp_path):
    refused(f"^expected {message}", reading.read_sheet, write(tmp_path / name, content))


def test_a_path_that_polars_cannot_take_is_refused():
    message = r"^expected the path of a file in UTF-8, got '\\udcff.csv'$"
    refused(message, reading.read_sheet, Path("\udcff.csv"))


@pytest.mark.parametrize(("suffix", "compression"), [(".gz", "gzip"), (".zst", "zstd")])
def test_a_file_that_ends_early_is_refused(suffix, compression, tmp_path):
    path = tmp_path / f"d.csv{suffix}"
    FRAME.write_csv(path, compression=compression)
    write(path, path.read_bytes()[:-6])
    refused(f"^cannot read .*d.csv{suffix}: ", reading.read_sheet, path)


def test_columns_that_are_refused(tmp_path):
    path = tmp_path / "d.parquet"
    pl.DataFrame({"a": [[1], [2]], "b": [1.0, np.inf]}).write_parquet(path)
    refused("got List.* in 'a': leave it out with --drop", reading.read_sheet, path)
    refused("got List.* in 'a'$", table.read_table, path, "a", None)
    refused("finite number, got inf in row 2, column 'b'", reading.read_sheet, path, drop=["a"])
    refused("--drop to be a column of .*'a', 'b'.*, got 'c'", reading.read_sheet, path, drop=["c"])
    refused("--separator needs a file of text", reading.read_sheet, path, separator=";")


# Preparation


def test_empty_cells_become_the_median_of_the_training_rows(tmp_path):
    sheet = sheet_of(tmp_path, "a,b\n1,x\n,x\n4,x\nNA,x\nnan,y\n?,y\n2,y\n1000,y\n")
    made = learned(sheet, np.arange(7))
    assert made.columns[0].fill == 2.0
    got = preparation.features(made, sheet)[:, 0] * made.columns[0].deviation
    np.testing.assert_allclose(got + made.columns[0].mean, [1, 2, 4, 2, 2, 2, 2, 1000], rtol=1e-12)
    assert preparation.filled(made, sheet) == ["'a': 4 empty cells became 2"]


def test_a_median_of_large_numbers_is_finite(tmp_path):
    cells = ["1.6e308", "1.7e308", "-1e308", "1.7e308"]
    made = column(sheet_of(tmp_path, "a,b\n" + "".join(f"{cell},1\n" for cell in cells)))
    assert made.fill == 2.0 * ((0.8e308 + 0.85e308) / 2.0)


def test_nan_in_a_column_of_parquet_is_an_empty_cell(tmp_path):
    path = tmp_path / "d.parquet"
    pl.DataFrame({"a": [1.0, np.nan, 4.0], "b": [1, 2, 3]}).write_parquet(path)
    sheet = reading.read_sheet(path)
    assert preparation.filled(learned(sheet), sheet) == ["'a': 1 empty cell became 2.5"]


def test_a_panic_of_polars_is_told(tmp_path, monkeypatch):
    """As at some damages of Arrow files, which have no checksums."""

    def panic(_):
        raise pl.exceptions.PanicException("left: 3")

    monkeypatch.setattr(pl, "read_parquet", panic)
    refused(
        "the format that .parquet names, got .*: left: 3",
        reading.read_sheet,
        write(tmp_path / "d.parquet", "PAR1 PAR1"),
    )


def test_empty_text_in_parquet_is_an_empty_cell(tmp_path):
    path = tmp_path / "d.parquet"
    pl.DataFrame({"a": ["x", "", "x"], "b": [1, 2, 3]}).write_parquet(path)
    assert reading.read_sheet(path).frame["a"].to_list() == ["x", None, "x"]
    assert reading.read_sheet(path, text=("a",)).frame["a"].to_list() == ["x", None, "x"]


def test_being_empty_is_a_category_if_training_rows_are(tmp_path):
    sheet = sheet_of(tmp_path, "a,b\nx,1\n,2\nx,3\nNone,4\ny,5\nx,6\n,7\nNone,8\n")
    made = learned(sheet)
    assert made.columns[0].categories == ("", "None", "x", "y")
    assert preparation.features(made, sheet)[1, :4].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert preparation.filled(made, sheet) == ["'a': 2 empty cells became a category"]
    # Otherwise the most frequent category, and of several the first.
    made = learned(sheet, np.asarray([0, 2, 3, 4, 5, 7]))
    assert (made.columns[0].fill, made.columns[0].categories) == ("x", ("None", "x", "y"))
    assert preparation.features(made, sheet)[1, :3].tolist() == [0.0, 1.0, 0.0]
    assert preparation.filled(made, sheet) == ["'a': 2 empty cells became 'x'"]


def test_only_training_rows_are_learned_from(tmp_path):
    content = "a,b,c\n" + "".join(f"{i / 3},{'xyz'[i % 3]},{i % 2 or ''}\n" for i in range(30))
    train = np.arange(20)
    made = learned(sheet_of(tmp_path, content), train)
    other = "\n".join([*content.splitlines()[:21], *["1e9,new,-7"] * 9])
    assert learned(sheet_of(tmp_path, other), train) == made


def test_a_mean_is_rounded_once_in_any_order():
    """NumPy's is not, and it sums in an order of its own."""
    many = np.random.default_rng(0).normal(size=(1000, 3)) + 5.0
    assert many.mean(axis=0).tolist() != many[::-1].mean(axis=0).tolist()
    a = many[:, 0]
    mean, deviation = preparation.scale_of(a)
    assert preparation.scale_of(a[::-1]) == (mean, deviation)
    # Of numbers near 1, divided by a power of two, whose quotient is rounded after the sum.
    assert mean == float(sum(map(Fraction, a.tolist()))) / 1000
    assert deviation == pytest.approx(a.std(), rel=1e-14)


def test_a_category_that_was_not_learned_is_named(tmp_path):
    sheet = sheet_of(tmp_path, "a,b\n" + "x,1\ny,2\n" * 4 + "z,3\n")
    made = learned(sheet, np.arange(8))
    refused(
        r"one of 'x', 'y', which were learned, got 'z' in row 9 \(line 10\), column 'a' of",
        preparation.features,
        made,
        sheet,
    )
    assert preparation.features(made, sheet, strict=False)[8, :2].tolist() == [0.0, 0.0]
    assert preparation.filled(made, sheet) == [
        "'a': 1 cell of categories that no training row has, 'z': 0 in all inputs"
    ]


def test_columns_come_in_any_order_and_those_missing_are_named(tmp_path):
    rows = [(i, i % 2, "0" * (i % 2) + "1") for i in range(9)]
    sheet = sheet_of(tmp_path, "a,b,c\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows), text="c")
    made = learned(sheet)
    assert made.columns[2].categories == ("01", "1")
    x = preparation.features(made, sheet)
    content = "c,new,b,a\n" + "".join(f"{c},?,{b},{a}\n" for a, b, c in rows)
    names = [each.name for each in made.columns]
    again = sheet_of(tmp_path, content, only=names, text=["c"])
    np.testing.assert_array_equal(preparation.features(made, again), x)
    np.testing.assert_array_equal(
        preparation.features(made, again, rows=np.asarray([2, 1])), x[[2, 1]]
    )
    content = content.replace(",b,", ",d,")
    again = sheet_of(tmp_path, content, only=names, text=["c"])
    message = "columns 'a', 'b', 'c' in .*d.csv, got a file without 'b'"
    refused(message, preparation.features, made, again)
    again = sheet_of(tmp_path, content.replace("a\n", "b\n").replace(",d,", ",a,"))
    x[:, [0, 1]] = x[:, [1, 0]]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1", "red", "green"], r"a number, got 'red' in row 2 \(line 3\), column 'a'"),
        (["2020-01-01", "2021-01-01"], r"a number, got '2020-01-01 00:00:00' in row 1 "),
        (
            ["1e300", "2"],
            r"float32 holds, got 2e\+300 deviations from the mean in row 1 \(line 2",
        ),
    ],
)
def test_cells_that_are_no_such_numbers(cells, message, tmp_path):
    made = learned(sheet_of(tmp_path, "a,b\n1,1\n2,2\n"))
    sheet = sheet_of(tmp_path, "a,b\n" + "".join(f"{cell},1\n" for cell in cells))
    refused(message, preparation.features, made, sheet, "float32")


def test_columns_that_no_network_can_learn_from_are_dropped(tmp_path):
    rows = [f"{i},{i + 1},{i},Ann {i},,x,7,{i % 2}\n" for i in range(12)]
    content = ",ID,step,name,none,same,seven,b\n" + "".join(rows)
    made = learned(sheet_of(tmp_path, content), dropped=[("gone", "as --drop says")])
    assert [each.name for each in made.columns] == ["step", "b"]
    assert preparation.lines(made) == [
        "2 numbers standardised",
        "'gone': dropped, as --drop says",
        "'', 'ID': dropped, counts the rows",
        "'name': dropped, 12 different texts in 12 training rows",
        "'none': dropped, empty",
        "'same': dropped, is 'x' in all training rows",
        "'seven': dropped, is 7 in all training rows",
    ]
    only = "same,none\nx,\nx,\n"
    message = r"to learn from in .*, got none \('same': is 'x' in all .*; 'none': empty\)"
    refused(message, learned, sheet_of(tmp_path, only))


@pytest.mark.parametrize(
    ("cell", "days"),
    [
        ("1970-01-02", 1.0),
        ("1969/12/31", -1.0),
        ("2000-01-01 12:00", 10957.5),
        ("2000-01-01T06:00:00.5Z", 10957.25 + 0.5 / 86400),
    ],
)
def test_dates_are_days_since_1970(cell, days, tmp_path):
    sheet = sheet_of(tmp_path, f"a,b\n{cell},1\n,2\n1970-01-01,3\n1970-01-01,3\n")
    made = column(sheet)
    assert (made.kind, made.fill) == ("date", 0.0)
    assert made.mean == pytest.approx(days / 4, rel=1e-15)


def test_an_instant_is_one_number_in_every_zone(tmp_path):
    path = tmp_path / "d.parquet"
    there = pl.Series([datetime.datetime(2024, 7, 1, 12)], dtype=pl.Datetime("us", "UTC"))
    for zone in ("UTC", "Asia/Tokyo", "Europe/Berlin"):
        pl.DataFrame({"a": there.dt.convert_time_zone(zone)}).write_parquet(path)
        assert reading.read_sheet(path).frame.item() == datetime.datetime(2024, 7, 1, 12)


def test_what_only_looks_like_dates_is_text(tmp_path):
    sheet = sheet_of(tmp_path, "a,b\n" + "2000-02-30,1\n2000-02-28,2\n" * 2)
    assert column(sheet).categories == ("2000-02-28", "2000-02-30")


def test_json_has_every_bit():
    made = preparation.Preparation(
        (
            preparation.Column('ä\n"', "number", 5e-324, (), 0.1 + 0.2, 1.7976931348623157e308),
            preparation.Column("b", "category", "", ("", "\u2028")),
        ),
        preparation.Target("y", (), (1 / 3, -0.0), (2 / 3, 1.0)),
        (("c", "empty"),),
    )
    again = preparation.from_json(preparation.to_json(made))
    assert again == made
    assert str(again) == str(made)


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "[]",
        "{}",
        '{"columns": [], "target": null, "dropped": []}',
        '{"columns": [{"name": 1}]}',
    ],
)
def test_another_text_is_no_preparation(damaged):
    with pytest.raises(ValueError, match="expected a preparation of columns, got another text"):
        preparation.from_json(damaged)


@pytest.mark.parametrize(
    ("columns", "target"),
    [
        ({"name": 1}, {}),
        ({"fill": None}, {}),
        ({"fill": float("nan")}, {}),
        ({"mean": "0"}, {}),
        ({"mean": True}, {}),
        ({"deviation": 0.0}, {}),
        ({"deviation": float("inf")}, {}),
        ({"categories": ["x"]}, {}),
        ({"kind": "category", "fill": ""}, {}),
        ({"kind": "category", "fill": 1.0, "categories": ["x"]}, {}),
        ({"kind": "category", "fill": "", "categories": ["x", "x"]}, {}),
        ({"kind": "category", "fill": "", "categories": [1]}, {}),
        ({}, {"name": None}),
        ({}, {"classes": ["x", 1]}),
        ({}, {"mean": [0.0]}),
        ({}, {"mean": [0.0], "deviation": [-1.0]}),
    ],
)
def test_fields_of_other_kinds_are_no_preparation(columns, target):
    made = preparation.Preparation(
        (preparation.Column("a", "number", 0.0),), preparation.Target("y")
    )
    fields = preparation.as_fields(made)
    assert preparation.from_json(json.dumps(fields)) == made
    fields["columns"][0] |= columns
    fields["target"] |= target
    with pytest.raises(ValueError, match="expected a preparation of columns, got another text"):
        preparation.from_json(json.dumps(fields))


def test_a_kind_of_another_version_is_refused():
    made = preparation.Preparation(
        (preparation.Column("a", "sound", 0.0),), preparation.Target("y")
    )
    with pytest.raises(ValueError, match="columns of number or date or category, got another"):
        preparation.from_json(preparation.to_json(made))


# Targets


def test_rows_without_a_target_are_left_out(tmp_path):
    rows = "".join(
        f"{i % 5},{['x', 'y', ''][i % 3]},{['1', '2', '?', 'NA', ''][i % 5]}\n" for i in range(30)
    )
    path = write(tmp_path / "d.csv", "a,b,y\n" + rows)
    got = table.read_table(path, "y", None)
    assert (got.classes, len(got.y)) == (("1", "2"), 12)
    assert got.notes == ("18 rows without 'y' left out",)
    assert table.read_table(path, "y", "regression").y[:2].tolist() == [[1.0], [2.0]]
    assert table.read_table(path, "b", None).classes == ("x", "y")
    # Cells are named by their rows in the file.
    sheet = table.read_table(path, "b", None, drop=["y"]).x
    frame = sheet.frame.with_columns(a=pl.Series(["x"] * 3 + ["1"] * 17))
    made = preparation.Preparation((preparation.Column("a", "category", "x", ("x",)),), None)
    message = r"one of 'x', .* got '1' in row 5 \(line 6\), column 'a'"
    refused(message, preparation.features, made, sheet._replace(frame=frame))


def test_decimal_commas_of_a_target_are_numbers(tmp_path):
    path = write(tmp_path / "d.csv", "a;y\n" + "1;2,5\n3;4\n" * 4)
    got = table.read_table(path, "y", None)
    assert got.classes == ()
    assert got.y.tolist() == [[2.5], [4.0]] * 4
    path = write(tmp_path / "d.csv", "a,y\n" + "1,2.5\n3,x\n" * 4)
    message = "in the target, got 'x' in row 2 .*: for classes, give --task classification$"
    refused(message, table.read_table, path, "y", None)


def test_many_whole_numbers_may_be_meant_as_such(tmp_path):
    path = write(tmp_path / "d.csv", "a,y\n" + "".join(f"{i},{i % 25}\n" for i in range(50)))
    got = table.read_table(path, "y", None)
    assert len(got.classes) == 25
    assert got.notes == ("25 classes; to predict numbers, give --task regression",)
    path = write(tmp_path / "d.csv", "a,y\n" + "".join(f"{i},{i % 1001}\n" for i in range(3000)))
    refused(
        "^expected --task .* whole numbers, got 1,001 different ones",
        table.read_table,
        path,
        "y",
        None,
    )
    assert len(table.read_table(path, "y", "classification").classes) == 1001


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "z"}, "--target to be a column of .*'w'.*, got 'z'"),
        ({"weights": "z"}, "--weights to be a column of .*, got 'z'"),
        ({"weights": "w"}, r"expected a number, got an empty cell in row 2 \(line 3\), column 'w'"),
        ({"weights": "t"}, r"expected a number, got 'x' in row 1 \(line 2\), column 't'"),
        ({"weights": "d"}, r"a number, got '2020-01-01.*' in row 1 \(line 2\), column 'd'"),
        ({"target": "t", "task": "regression"}, r"in the target, got 'x' in row 1 \(line 2\)"),
        (
            {"target": "inf", "task": None},
            r"finite number, got inf in row 1 \(line 2\), column 'inf'",
        ),
        ({"drop": ["a", "w", "t", "d", "inf"]}, "columns beside the target 'y' in .*, got none"),
    ],
)
def test_targets_that_are_refused(options, message, tmp_path):
    rows = "".join(
        f"{i},{i % 2 or ''},{'xy'[i % 2]},2020-01-0{i},{i % 2},{'inf' if i < 1 else 1}\n"
        for i in range(1, 9)
    )
    rows = rows.replace("1,1,y", "1,1,x", 1).replace(",1\n", ",inf\n", 1)
    path = write(tmp_path / "d.csv", "a,w,t,d,y,inf\n" + rows)
    given = (
        {"target": "y", "task": None}
        | ({} if "inf" in str(options) else {"drop": ["inf"]})
        | options
    )
    refused(message, table.read_table, path, **given)


# The command


@pytest.fixture
def train(capsys):
    def train(*arguments, status=0):
        got = main(["train", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert got == status, (out, err)
        return out, err

    return train


def test_train_tells_what_it_did_to_columns(train, tmp_path):
    rows = "".join(f"{i};{i / 4};{'xy'[i % 2]};{i % 3}\n" for i in range(30)).replace(".", ",")
    path = write(tmp_path / "d.csv", '"";"size";"town";"kind"\n' + rows.replace("\n4;1,0", "\n4;"))
    folder = tmp_path / "runs"
    given = ("--data", path, "--target", "kind", "--hidden", "4", "--numerics", "exact")
    out, err = train(
        *given, "--separator", ";", "--drop", "town", "--steps", 2, "--checkpoint", folder
    )
    assert err == "Dropped the column '', which counts the rows as an index of pandas does.\n"
    facts = [line[15:] for line in out.splitlines() if line[:15] in (" " * 15, f"{'prepared':15}")]
    assert facts == [
        "1 number standardised",
        "'town': dropped, as --drop says",
        "'': dropped, counts the rows",
        "'size': 1 empty cell became 4.25",
    ]
    out, _ = train("--resume", folder, "--steps", 3, "--json")
    assert json.loads(out)["prepared"] == facts
    _, err = train("--resume", folder, "--steps", 4, "--drop", "size", status=2)
    assert f"expected --drop town, as in the checkpoint in {folder}, got size" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--drop a", "--drop needs --data FILE"),
        ("--separator ;", "--separator needs --data FILE"),
        (
            "--data d.csv --target y --separator ab",
            "--separator to be one character, tab or space, got 'ab'",
        ),
        (
            "--data d.csv --target y --drop y",
            "expected --drop other than --target, got 'y' as both",
        ),
        ("--data d.npz --target y --drop x", "--drop needs a file of columns, got 'd.npz'"),
        ("--data . --drop x", "--drop needs --data FILE, got the folder ."),
    ],
)
def test_options_that_are_refused(options, message, train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d.npz").touch()
    assert message in train(*options.split(), status=2)[1]


def test_without_polars(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda m: None if m == "polars" else find(m))
    refused("reading d.csv needs polars, which is not installed", sheet_of, tmp_path, "a,b\n1,2\n")


def test_workers_are_given_all_that_the_command_is():
    workers = importlib.import_module("kernels.cli.train.workers")
    settings = importlib.import_module("kernels.cli.train.settings")
    written = workers._written(settings.Options(drop=["a", "b c"], separator=";"))
    assert written == ["--drop=a", "--drop=b c", "--separator=;"]
    # Zeros are no defaults of theirs.
    options = {"seed": 0, "power": 0.0, "beta1": 0.0, "beta2": 0.0, "nesterov": False}
    written = workers._written(settings.Options(**options))
    expected = ["--seed=0", "--power=0.0", "--no-nesterov", "--beta1=0.0", "--beta2=0.0"]
    assert sorted(written) == sorted(expected)
    assert settings.given_of(settings.Options(separator="tab")) == {"separator": "\t"}
