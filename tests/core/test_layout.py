"""Result files are where other programs expect them, and patterns of the rules are those of the readers."""

from pathlib import Path

from conffusion.core.layout import ResultFolder, RunLayout

RUN = RunLayout.of("default")
RESULTS = RUN.results("inpainting", "n_conffusion-r1", "paper")


def test_result_files_are_where_other_programs_expect_them() -> None:
    of_method = "results/default/inpainting/n_conffusion-r1"
    assert {str(path) for path in (
        RUN.config, RUN.splits, RUN.images("inpainting", "test"), RESULTS.bounds("test"), RESULTS.model,
        RUN.calibration("inpainting", "n_conffusion-r1", "paper"), RUN.table("claims"),
        RUN.figure("bounds"), RUN.report,
    )} == {
        "results/default/config.yaml", "results/default/splits.csv", "results/default/inpainting/images/test.json",
        f"{of_method}/paper/bounds/test.json", f"{of_method}/paper/model.safetensors",
        f"{of_method}/paper/calibration.json", "results/default/tables/claims.csv",
        "results/default/figures/bounds.png", "results/default/report.html",
    }  # fmt: skip


def test_shards_are_numbered_so_that_names_sort() -> None:
    names = [str(RUN.variants("inpainting", "test", k, 120)) for k in (2, 10, 119)]
    assert names == sorted(names)
    assert names[0] == "results/default/inpainting/variants/test/shard-00002-of-00120.json"


def test_names_may_be_patterns() -> None:
    pattern = str(RUN.results("{task}", "{method_run}", "{protocol}").curve)
    assert pattern.format(task="inpainting", method_run="n_conffusion-r1", protocol="paper") == str(RESULTS.curve)
    shard = str(RUN.variants("{task}", "{split}", "{k}", "{n}"))
    assert shard.format(task="a", split="test", k="00001", n="00002") == str(RUN.variants("a", "test", 1, 2))


def test_a_folder_of_results_and_a_relative_run() -> None:
    assert ResultFolder(RESULTS.path) == RESULTS
    assert str(RunLayout(Path()).table("speed")) == "tables/speed.csv"
