"""Where the files of a run are. Names of result files stand here and nowhere else."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ResultFolder:
    """Results of one method run under one protocol.

    Attributes:
        path: <run>/<task>/<method_run>/<protocol>.
    """

    path: Path

    @property
    def model(self) -> Path:
        """Chosen checkpoint, where the method has a network of its own."""
        return self.path / "model.safetensors"

    @property
    def calibration(self) -> Path:
        """Scale lambda_hat and what it guarantees."""
        return self.path / "calibration.json"

    @property
    def family(self) -> Path:
        """Fitted set family, under a protocol that chooses one."""
        return self.path / "family.json"

    @property
    def metrics(self) -> Path:
        """Metrics on the test images."""
        return self.path / "metrics.json"

    @property
    def per_image(self) -> Path:
        """Metrics of every test image."""
        return self.path / "per_image.csv"

    @property
    def curve(self) -> Path:
        """Risk and interval size against lambda."""
        return self.path / "curve.csv"

    @property
    def positions(self) -> Path:
        """Risk by position in the image."""
        return self.path / "positions.npz"

    @property
    def pool(self) -> Path:
        """Loss curves of the pooled calibration and test images."""
        return self.path / "pool.npz"

    def bounds(self, split: str) -> Path:
        """Manifest of the bounds of a split before calibration."""
        return self.path / "bounds" / f"{split}.json"


@dataclass(frozen=True)
class RunLayout:
    """The files of one run. Any name may be a pattern such as "{task}": the rules of the workflow are written so.

    Stores of arrays are named by their manifest, which is written last; the store itself, with the suffix .zarr, lies
    beside it.

    Attributes:
        folder: results/<run>; the empty path gives paths relative to it.
    """

    folder: Path

    @classmethod
    def of(cls, run: str) -> "RunLayout":
        """Files of the run of this name, relative to the folder where Snakemake runs."""
        return cls(Path("results") / run)

    # ---- the run

    @property
    def config(self) -> Path:
        """The merged configuration."""
        return self.folder / "config.yaml"

    @property
    def splits(self) -> Path:
        """Which image belongs to which split and group."""
        return self.folder / "splits.csv"

    @property
    def code(self) -> Path:
        """Digests of the code that the results were made with."""
        return self.folder / "code.json"

    @property
    def logs(self) -> Path:
        """Folder of the log files, by job."""
        return self.folder / "logs"

    @property
    def benchmarks(self) -> Path:
        """Folder of Snakemake's benchmark files, by job."""
        return self.folder / "benchmarks"

    @property
    def jobs(self) -> Path:
        """Folder of the records of jobs that run, have run or failed."""
        return self.folder / "jobs"

    @property
    def states(self) -> Path:
        """Folder of the full states of training jobs that are not finished."""
        return self.folder / "state"

    def prior(self, name: str) -> Path:
        """Weights of a prior that the run trains or converts."""
        return self.folder / "priors" / f"{name}.safetensors"

    @property
    def prior_samples(self) -> Path:
        """Samples of the priors in use."""
        return self.folder / "priors" / "samples.npz"

    # ---- a task

    def images(self, task: str, split: str, folder: str = "images") -> Path:
        """Manifest of the images of a split; `folder` is "images", or "images-<side>" for those of another size."""
        return self.folder / task / folder / f"{split}.json"

    def variants(self, task: str, split: str, k: int | str, n: int | str) -> Path:
        """Manifest of the k-th of n shards of variants."""
        k, n = (f"{number:05d}" if isinstance(number, int) else number for number in (k, n))
        return self.folder / task / "variants" / split / f"shard-{k}-of-{n}.json"

    # ---- a method run: a method with its replicate

    def results(self, task: str, method_run: str, protocol: str) -> ResultFolder:
        """What a method run gave under one protocol."""
        return ResultFolder(self.folder / task / method_run / protocol)

    def calibration(self, task: str, method_run: str, protocol: str) -> Path:
        """Scale lambda_hat of a method run under one protocol."""
        return self.results(task, method_run, protocol).calibration

    def training_curve(self, task: str, method_run: str) -> Path:
        """Loss and scores by step of a fine-tuning run."""
        return self.folder / task / method_run / "training.csv"

    def candidates(self, task: str, method_run: str) -> Path:
        """Folder of all checkpoints that competed."""
        return self.folder / task / method_run / "candidates"

    def candidate_curves(self, task: str, method_run: str) -> Path:
        """Folder of their loss curves."""
        return self.folder / task / method_run / "candidate_curves"

    def validity(self, task: str, method_run: str) -> Path:
        """How often the guarantee is missed over redrawn calibration sets."""
        return self.folder / task / method_run / "validity.csv"

    # ---- tables, figures, the report

    def table(self, name: str) -> Path:
        """A table as CSV; .md and .tex lie beside it."""
        return self.folder / "tables" / f"{name}.csv"

    def figure(self, name: str) -> Path:
        """A figure as PNG; .pdf lies beside it."""
        return self.folder / "figures" / f"{name}.png"

    @property
    def report(self) -> Path:
        """The report, one page."""
        return self.folder / "report.html"

    # ---- searches that `all` does not repeat

    @property
    def tuning(self) -> Path:
        """Folder of the search over fine-tuning settings."""
        return self.folder / "tuning"

    @property
    def solver_study(self) -> Path:
        """Folder of the study of solvers."""
        return self.folder / "solver_study"
