"""Images are found, grouped into studies and given unique names."""

from pathlib import Path

import pytest

from cardiac.studies import Study, find_studies, unique_names
from common.errors import UserError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def shape(studies: list[Study]) -> dict[str, dict[str, str]]:
    """Return each study's items as phases by name."""
    return {study.name: {item.name: item.phase for item in study.items} for study in studies}


def test_a_folder_is_searched_and_labels_are_left_out(tmp_path: Path) -> None:
    data = touch(
        tmp_path / "data",
        "deep/er/cine.nii.gz",
        "plain.nii",
        "plain_gt.nii.gz",
        "plain_seg.nii.gz",
        ".plain.nii.gz.12.part",
        "._plain.nii.gz",
        "notes.txt",
        "001_LA_ED.nii.gz",
        "out/cine_seg.nii.gz",
    )
    assert shape(find_studies([data])) == {
        "cine": {"cine": ""},
        "plain": {"plain": ""},
    }


def test_a_label_file_that_is_asked_for_by_name_is_taken(tmp_path: Path) -> None:
    data = touch(tmp_path, "a_gt.nii.gz")
    assert list(shape(find_studies([data / "a_gt.nii.gz"]))) == ["a_gt"]


def test_mnms_pairs_belong_together(tmp_path: Path) -> None:
    touch(tmp_path / "001", "001_SA_ED.nii.gz", "001_SA_ES.nii.gz", "001_SA_CINE.nii.gz")
    touch(tmp_path / "002", "002_SA_ES.nii.gz")
    assert shape(find_studies([tmp_path])) == {
        "001_SA_CINE": {"001_SA_CINE": ""},
        "001_SA": {"001_SA_ED": "ED", "001_SA_ES": "ES"},
        "002_SA": {"002_SA_ES": "ES"},
    }


def test_acdc_frames_belong_together_by_their_info(tmp_path: Path) -> None:
    names = ("p_frame04.nii.gz", "p_frame11.nii.gz", "p_frame20.nii.gz", "p_4d.nii.gz")
    touch(tmp_path / "told", *names)
    (tmp_path / "told" / "Info.cfg").write_text("ED: 4\nES: 11\nGroup: NOR\n")
    assert shape(find_studies([tmp_path / "told"])) == {
        "p_4d": {"p_4d": ""},
        "p": {"p_frame04": "ED", "p_frame11": "ES"},
        "p_frame20": {"p_frame20": ""},
    }
    touch(tmp_path / "untold", *names)
    untold = find_studies([tmp_path / "untold"])
    assert {item.phase for study in untold for item in study.items} == {""}
    assert len(untold) == 4


def test_a_frame_number_of_thousands_of_digits_is_none(tmp_path: Path) -> None:
    touch(tmp_path, "p_frame04.nii.gz", "p_frame11.nii.gz")
    (tmp_path / "Info.cfg").write_text(f"ED: 4\nES: {'1' * 5000}\n")
    assert shape(find_studies([tmp_path])) == {
        "p": {"p_frame04": "ED"},
        "p_frame11": {"p_frame11": ""},
    }


def test_files_of_one_name_in_several_folders_are_told_apart(tmp_path: Path) -> None:
    names = ("001_SA_ED.nii.gz", "001_SA_ES.nii.gz")
    for hospital in ("a", "b"):
        touch(tmp_path / hospital, *names)
    assert shape(find_studies([tmp_path / "a", tmp_path / "b"])) == {
        "a_001_SA": {"a_001_SA_ED": "ED", "a_001_SA_ES": "ES"},
        "b_001_SA": {"b_001_SA_ED": "ED", "b_001_SA_ES": "ES"},
    }


def test_a_second_ed_is_not_put_into_the_pair(tmp_path: Path) -> None:
    touch(tmp_path, "x_ED.nii.gz", "x_ED.nii", "x_ES.nii.gz")
    studies = find_studies([tmp_path])
    assert sorted(len(study.items) for study in studies) == [1, 2]
    assert len({item.name for study in studies for item in study.items}) == 3
    assert len({study.name for study in studies}) == 2


def test_a_file_named_twice_is_one(tmp_path: Path) -> None:
    touch(tmp_path, "x.nii.gz")
    given = [tmp_path, tmp_path / "x.nii.gz", tmp_path / "sub" / ".." / "x.nii.gz"]
    (tmp_path / "sub").mkdir()
    assert len(find_studies(given)) == 1


@pytest.mark.parametrize(
    ("places", "names"),
    [
        ([("a", "x"), ("a", "y")], ["x", "y"]),
        ([("a", "x"), ("b", "x"), ("b", "y")], ["a_x", "b_x", "y"]),
        ([("p", "a", "x"), ("q", "a", "x")], ["p_a_x", "q_a_x"]),
        ([("a", "x"), ("a", "x"), ("a", "x")], ["x", "x_2", "x_3"]),
        ([("a", "x"), ("b", "x"), ("c", "a_x")], ["a_x", "b_x", "c_a_x"]),
        ([("a", "X"), ("b", "x")], ["a_X", "b_x"]),
    ],
)
def test_names_are_as_short_as_they_can_be(places: list[tuple[str, ...]], names: list[str]) -> None:
    assert unique_names(places) == names


def test_wrong_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "image.dcm")
    for name, words in {
        "gone": "no such file or folder",
        "empty": "holds no image",
        "image.dcm": "expected .nii.gz or .nii",
    }.items():
        with pytest.raises(UserError) as error:
            find_studies([tmp_path / name])
        assert str(error.value).startswith(f"{tmp_path / name}: ")
        assert words in str(error.value)
