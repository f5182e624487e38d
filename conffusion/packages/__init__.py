"""Packages: one portable file with all that predicts, calibrates and judges new images. No code, no pickles."""

from conffusion.packages.evidence import Evidence
from conffusion.packages.file import read_package, write_package
from conffusion.packages.from_run import package_run
from conffusion.packages.package import CalibratedOn, Package, PackageRecord, SamplingRecord

__all__ = [
    "CalibratedOn",
    "Evidence",
    "Package",
    "PackageRecord",
    "SamplingRecord",
    "package_run",
    "read_package",
    "write_package",
]
