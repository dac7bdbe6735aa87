import errno

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clcore.errors import UserError
from clcore.masks import Mask
from trackers import artifacts


def some_masks():
    torch.manual_seed(0)
    return {
        (1, "units1"): Mask("unit", torch.rand(101) < 0.3),
        (1, "units2"): Mask("ternary", torch.randint(0, 3, (7,), dtype=torch.uint8)),
        (2, "units1"): Mask("unit", torch.zeros(101, dtype=torch.bool)),
        (2, "layers.0.weight"): Mask("weight", torch.rand(5, 3, 2, 2) < 0.5),
    }


def test_masks_come_back(tmp_path):
    masks = some_masks()
    artifacts.write_masks(tmp_path / "new" / "masks.parquet", masks)
    back = artifacts.read_masks(tmp_path / "new" / "masks.parquet")
    assert back.keys() == masks.keys()
    for key, mask in masks.items():
        assert back[key].kind == mask.kind
        assert torch.equal(back[key].values, mask.values)


@pytest.mark.parametrize("task", [1, 2, 3])
def test_the_masks_of_one_task_alone(tmp_path, task, monkeypatch):
    masks, asked = some_masks(), []
    artifacts.write_masks(tmp_path / "masks.parquet", masks)
    groups = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", lambda self, chosen: asked.extend(chosen) or groups(self, chosen))
    back = artifacts.read_masks(tmp_path / "masks.parquet", task)
    assert back.keys() == {key for key in masks if key[0] == task}
    assert all(torch.equal(back[key].values, masks[key].values) for key in back)
    assert len(asked) == len(back)  # where groups hold one mask each, no other is read


def test_units_cost_hardly_more_than_a_bit_each(tmp_path):
    torch.manual_seed(0)
    artifacts.write_masks(
        tmp_path / "m.parquet", {(t, f"u{i}"): Mask("unit", torch.rand(2048) < 0.5) for t in range(250) for i in (1, 2)}
    )
    assert (tmp_path / "m.parquet").stat().st_size <= 1.05 * 250 * 2 * 2048 / 8


def test_the_columns_are_as_documented(tmp_path):
    path = tmp_path / "masks.parquet"
    artifacts.write_masks(path, some_masks())
    file = pq.ParquetFile(path)
    assert file.schema_arrow.metadata[b"cl.mask.schema"] == b"1"
    assert file.schema_arrow.metadata[b"bitorder"] == b"little"
    assert file.num_row_groups == 4  # weight masks: one each
    row = file.read().to_pylist()[0]
    values = some_masks()[1, "units1"].values
    assert list(row) == ["task", "layer", "kind", "shape", "n", "ones", "bits"]
    assert (row["task"], row["layer"], row["shape"], row["n"], row["ones"]) == (1, "units1", [101], 101, int(values.sum()))
    assert len(row["bits"]) == 13


def test_unit_masks_share_a_row_group_and_large_ones_fit(tmp_path):
    path = tmp_path / "masks.parquet"
    artifacts.write_masks(path, {(t, "u"): Mask("unit", torch.ones(9, dtype=torch.bool)) for t in range(250)})
    assert pq.ParquetFile(path).num_row_groups == 1
    big = Mask("weight", torch.ones(1001, 1000, dtype=torch.bool))
    artifacts.write_masks(path, {(1, "w"): big})
    assert str(pq.ParquetFile(path).schema_arrow.field("bits").type) == "large_binary"
    assert artifacts.read_masks(path)[1, "w"].values.all()


def test_no_masks_is_a_valid_file(tmp_path):
    artifacts.write_masks(tmp_path / "m.parquet", {})
    assert artifacts.read_masks(tmp_path / "m.parquet") == {}


def test_matrices_come_back(tmp_path):
    test = torch.rand(6, 5, dtype=torch.float64)
    test[0] = torch.nan
    artifacts.write_matrix(tmp_path / "a.parquet", {"test": test, "validation": test / 2})
    back = artifacts.read_matrix(tmp_path / "a.parquet")
    for split, matrix in (("test", test), ("validation", test / 2)):
        torch.testing.assert_close(back[split], matrix, rtol=0, atol=0, equal_nan=True)


def test_leaderboard_comes_back(tmp_path):
    rows = [{"rank": 1, "growth": 0.1, "mixed": 1, "acc": None}, {"rank": 2, "growth": 0.2, "mixed": "x", "acc": 0.5}]
    artifacts.write_leaderboard(tmp_path / "report", rows)
    table = artifacts.read_leaderboard(tmp_path / "report")
    assert table.column_names == ["rank", "growth", "mixed", "acc"]
    assert table["acc"].to_pylist() == [None, 0.5]
    assert (tmp_path / "report" / "leaderboard.csv").read_text().splitlines()[1] == "1,0.1,1,"
    artifacts.write_leaderboard(tmp_path / "report", [])
    assert artifacts.read_leaderboard(tmp_path / "report").num_rows == 0


@pytest.mark.parametrize("reader", [artifacts.read_masks, artifacts.read_matrix, artifacts.read_leaderboard])
def test_damaged_missing_and_foreign_files(tmp_path, reader):
    path = tmp_path / "x.parquet"
    with pytest.raises(UserError, match="there is no file"):
        reader(path)
    artifacts.write_masks(path, some_masks())
    whole = path.read_bytes()
    for content in (whole[:-100], b"", b"hello" * 100, whole[:200] + bytes(200) + whole[400:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.parquet"):
            reader(path)


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    path = tmp_path / "x.parquet"
    masks = some_masks()
    artifacts.write_masks(path, masks)
    whole = path.read_bytes()
    for at in range(4, 400, 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            back = artifacts.read_masks(path)
        except UserError:
            continue
        assert all(torch.equal(back[key].values, mask.values) for key, mask in masks.items())


def test_a_matrix_is_no_mask(tmp_path):
    artifacts.write_matrix(tmp_path / "x.parquet", {"test": torch.rand(3, 2)})
    with pytest.raises(UserError, match="not a file of masks"):
        artifacts.read_masks(tmp_path / "x.parquet")


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    artifacts.write_matrix(path, {"test": torch.rand(3, 2)})
    before = path.read_bytes()

    def full(table, where, **options):
        where.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        artifacts.write_matrix(path, {"test": torch.rand(3, 2)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def rewritten(path, **changes):
    """The file with some columns of its first row, or notes, replaced."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    notes = {**table.schema.metadata, **{k.encode(): v for k, v in changes.items() if isinstance(v, bytes) and k != "bits"}}
    rows[0] |= {k: v for k, v in changes.items() if k in rows[0]}
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema).replace_schema_metadata(notes), path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "units"}, "there is no 'units' mask"),
        ({"task": -1}, "damaged at task -1"),
        ({"shape": []}, "mask of shape"),
        ({"shape": [-101]}, "mask of shape"),
        ({"shape": [None]}, "mask of shape"),
        ({"shape": [1 << 30, 1 << 30]}, "13 bytes where"),
        ({"bits": None}, "bits is missing in a row"),
        ({"task": 2}, "two masks of one task and layer"),
    ],
)
def test_masks_that_make_no_sense(tmp_path, changes, message):
    path = tmp_path / "x.parquet"
    artifacts.write_masks(path, some_masks())
    rewritten(path, **changes)
    with pytest.raises(UserError, match=message):
        artifacts.read_masks(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seen": -1}, "no place for task 1 after -1"),
        ({"seen": 4}, "no place"),
        ({"task": 0}, "no place"),
        ({"task": 3}, "no place"),
        ({"accuracy": None}, "accuracy is missing"),
        ({"tasks": b"x"}, "no number of tasks"),
        ({"tasks": b"99999"}, "no number of tasks"),
        ({"cl.matrix.schema": b"2"}, "schema 1"),
    ],
)
def test_matrices_that_make_no_sense(tmp_path, changes, message):
    path = tmp_path / "x.parquet"
    artifacts.write_matrix(path, {"test": torch.rand(3, 2)})
    rewritten(path, **changes)
    with pytest.raises(UserError, match=message):
        artifacts.read_matrix(path)


def test_columns_that_are_not_there(tmp_path):
    path = tmp_path / "x.parquet"
    artifacts.write_masks(path, some_masks())
    pq.write_table(pq.read_table(path).drop_columns(["task"]), path)
    for task in (None, 1):
        with pytest.raises(UserError, match="damaged"):
            artifacts.read_masks(path, task)
    with pytest.raises(UserError, match="no leaderboard"):
        artifacts.read_leaderboard(path)


def test_a_leaderboard_of_numbers_beyond_64_bits(tmp_path):
    artifacts.write_leaderboard(tmp_path, [{"rank": 1, "big": 10**30}, {"rank": 2, "big": 1}])
    assert artifacts.read_leaderboard(tmp_path)["big"].to_pylist() == [str(10**30), "1"]
