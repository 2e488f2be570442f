"""Parquet files as batches of tensors: petastorm reads, tf.data shuffles, decodes and batches, and every epoch is counted.

All that petastorm needs is here, and its race is guarded: see :func:`_hand_out`. Only reading needs it: files are described and counted
without.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

import numpy as np
import pyarrow
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nalspark.errors import FeedError, TrainingError

# isort: split
import nalspark.learning.networks  # noqa: F401  (first: it loads TensorFlow without its greetings)

# isort: split
import tensorflow as tf

try:
    with warnings.catch_warnings():  # petastorm 0.13.1 lives on what pyarrow 14 calls outdated: a dozen warnings a reader
        warnings.simplefilter("ignore")
        from petastorm import make_batch_reader
        from petastorm.reader import Reader
        from pyarrow.filesystem import FileSystem
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm(\.|$)")
    _NO_PETASTORM = ""
except ImportError as error:  # not installed, or beside a pyarrow that it cannot use
    FileSystem, _NO_PETASTORM = object, str(error)

_LABEL, _DRAW = "label", "draw"
#: Label of the rows that only fill a batch: they are copies, with weight 0.
PADDING = -1.0
#: Member k draws the negatives whose `draw`, moved on by k of these, falls below the fraction: members overlap little.
GOLDEN = 0.6180339887498949
#: Rows among which the next row is drawn, on top of the order of the row groups.
SHUFFLE_ROWS = 8192
#: Threads that read row groups. Their number does not change the order of the rows.
_THREADS = min(4, os.cpu_count() or 1)

#: A member's share of the negatives: its number and the fraction.
Negatives = tuple[int, float]


class _RowGroup(NamedTuple):
    label: NDArray[np.float32]
    draw: NDArray[np.float64]


def require_petastorm() -> None:
    """Refuse to train where petastorm cannot be used.

    Raises
    ------
    TrainingError
    """
    if _NO_PETASTORM:
        raise TrainingError(
            f"Training reads its examples with petastorm, which cannot be loaded here: {_NO_PETASTORM}. It needs older libraries than the "
            "rest: make an environment of its own with Python 3.11, and install it there with pip install 'nalspark[train]'."
        )


@dataclass(frozen=True)
class Feed:
    """Labelled examples in Parquet files.

    The column ``label`` holds 0 or 1, ``draw`` numbers spread evenly over [0, 1): by it the members draw their negatives.

    Parameters
    ----------
    files : tuple of str
        Parquet files, in any folders, under any names.
    columns : tuple of str
        Binary columns of little-endian float32, one a channel of the tensors.
    shape : tuple of int
        Shape of one value of each.
    """

    files: tuple[str, ...]
    columns: tuple[str, ...]
    shape: tuple[int, ...]

    def __getstate__(self) -> dict[str, Any]:
        # What was read of the files is read again where the feed is sent to.
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Shape of one example: the columns' shape and, last, one channel a column."""
        return (*self.shape, len(self.columns))

    @cached_property
    def _targets(self) -> tuple[_RowGroup, ...]:
        """Label and draw of every row, by row group, in the order in which petastorm numbers these."""
        return tuple(group for path in self.files for group in self._targets_of(path))

    def _targets_of(self, path: str) -> Iterator[_RowGroup]:
        try:
            with open(path, "rb") as file, pq.ParquetFile(file) as parquet:
                missing = {*self.columns, _LABEL, _DRAW} - set(parquet.schema_arrow.names)
                if missing:
                    raise FeedError(f"The training file '{path}' has no column {', '.join(sorted(missing))}. Write the table again.")
                for number in range(parquet.num_row_groups):
                    table = parquet.read_row_group(number, columns=[_LABEL, _DRAW])
                    group = _RowGroup(*(table[name].to_numpy() for name in (_LABEL, _DRAW)))
                    if not (np.isin(group.label, (0, 1)).all() and ((group.draw >= 0) & (group.draw < 1)).all()):
                        raise FeedError(f"'{path}' has labels other than 0 and 1, or draws outside [0, 1). Write the training table again.")
                    yield group
        except (OSError, pyarrow.ArrowException) as error:
            raise FeedError(f"The training file '{path}' cannot be read: {' '.join(str(error).split())}. Write the table again.") from None

    def rows(self, shard: int = 0, shards: int = 1) -> int:
        """Count the rows of the files that all workers, or one of several, get."""
        return sum(len(group.label) for group in self._targets[shard::shards])

    def kept(self, negatives: Negatives | None = None, shard: int = 0, shards: int = 1) -> int:
        """Count the rows that an epoch gives: all, or all positives and a member's negatives."""
        if negatives is None:
            return self.rows(shard, shards)
        return sum(int(_drawn(group.label, group.draw, negatives).sum()) for group in self._targets[shard::shards])

    def fraction(self, negatives_per_positive: float) -> float:
        """Compute the fraction of negatives that makes so many for each positive; 1 at most.

        Raises
        ------
        FeedError
            Where there are none of the one or of the other.
        """
        positives = sum(int((group.label == 1).sum()) for group in self._targets)
        if positives in (0, self.rows()):
            raise FeedError(f"Of {self.rows()} training rows {positives} are labelled 1, the others 0; a network learns from both.")
        return min(1.0, negatives_per_positive * positives / (self.rows() - positives))

    def steps(self, batch_size: int, *, shards: int = 1, negatives: Negatives | None = None) -> int:
        """Count the batches of an epoch, the same for every worker: as many as the fullest shard needs."""
        return max(math.ceil(self.kept(negatives, shard, shards) / batch_size) for shard in range(shards))

    def names(self, column: str) -> list[str]:
        """Read a column of text, in the order in which an epoch without a seed gives the rows; empty where a file has none."""
        if any(column not in pq.read_schema(path).names for path in self.files):
            return []
        return [name for path in self.files for name in pq.read_table(path, columns=[column], partitioning=None)[column].to_pylist()]

    def digest(self) -> str:
        """Give twelve hexadecimal digits that change when the files are others, or other columns of them are read."""
        told = [(os.path.basename(path), os.path.getsize(path)) for path in self.files]
        return hashlib.sha256(repr((told, self.columns, self.shape, _LABEL, _DRAW)).encode()).hexdigest()[:12]

    def epoch(
        self,
        batch_size: int,
        *,
        seed: int | None,
        shard: int = 0,
        shards: int = 1,
        negatives: Negatives | None = None,
    ) -> tf.data.Dataset:
        """Give one pass over the rows.

        The order depends on the arguments and the files alone. Worker `shard` of `shards` gets every `shards`-th row group. All workers get
        :meth:`steps` batches, every batch full: what lacks at the end is made up with copies whose label is :data:`PADDING`.

        Parameters
        ----------
        batch_size : int
            Rows of a batch of this worker.
        seed : int, optional
            Of the order of the row groups and of the shuffle buffer; None leaves the rows in their order.
        shard, shards : int
        negatives : (k, fraction), optional
            Member k gets all rows labelled 1, and those labelled 0 whose ``frac(draw + k·golden) < fraction``.

        Returns
        -------
        tf.data.Dataset
            Of x, float32, shape (batch_size, *shape, channels), and y, float32, shape (batch_size,): 0, 1 or :data:`PADDING`.

        Raises
        ------
        FeedError
            Where a file cannot be read, or there are fewer row groups than workers. Iterating raises it, inside :func:`told`, where the
            epoch's rows are not as many as the files hold.
        TrainingError
            Where petastorm cannot be loaded.
        """
        require_petastorm()
        if len(self._targets) < shards or self.rows() == 0:
            raise FeedError(
                f"The training files have {self.rows()} rows in {len(self._targets)} row groups; {shards} workers need at least one group "
                "each. Use fewer workers, or write the table with more and smaller row groups."
            )
        signature = [tf.TensorSpec((None,), tf.string) for _ in self.columns] + [tf.TensorSpec((None,), tf.float32)]
        rows = tf.data.Dataset.from_generator(lambda: self._read(seed, shard, shards, negatives), output_signature=tuple(signature))
        if seed is not None:
            rows = rows.unbatch().shuffle(SHUFFLE_ROWS, seed=seed, reshuffle_each_iteration=False).batch(batch_size)
        else:
            rows = rows.rebatch(batch_size)
        batches = rows.map(lambda *columns: _filled(*self._tensors(*columns), batch_size), num_parallel_calls=tf.data.AUTOTUNE)
        own = math.ceil(self.kept(negatives, shard, shards) / batch_size)
        missing = self.steps(batch_size, shards=shards, negatives=negatives) - own
        if missing:
            # A real batch again, so that a network's running statistics are not drawn towards blank ones.
            blank = tf.data.Dataset.from_tensors((tf.zeros((batch_size, *self.tensor_shape)), tf.zeros(batch_size)))
            filler = (batches.take(1).cache() if own else blank).repeat(missing)
            batches = batches.concatenate(filler.map(lambda x, y: (x, tf.fill((batch_size,), PADDING))))
        return batches.prefetch(2)

    def _read(self, seed: int | None, shard: int, shards: int, negatives: Negatives | None) -> Iterator[tuple[NDArray[Any], ...]]:
        """Row group after row group: the columns' bytes and the labels, each of shape (n,). Counted."""
        names = (*self.columns, _LABEL, *((_DRAW,) if negatives else ()))
        rows = 0
        try:
            with _reader(self.files, names, seed, shard, shards) as reader:
                for group in reader:
                    columns = {name: getattr(group, name) for name in names}
                    label = columns[_LABEL]
                    rows += len(label)
                    keep = _drawn(label, columns[_DRAW], negatives) if negatives else slice(None)
                    yield (*(self._checked(name, columns[name])[keep] for name in self.columns), label[keep].astype(np.float32))
        except (OSError, pyarrow.ArrowException) as error:
            raise FeedError(f"The training files cannot be read: {' '.join(str(error).split())}. Write the table again.") from None
        if rows != self.rows(shard, shards):
            raise FeedError(
                f"An epoch gave {rows} rows; the {len(self.files)} training files hold {self.rows(shard, shards)}. "
                "Nothing is trained on part of a table unnoticed: run again, and write the table again if it repeats."
            )

    def _checked(self, name: str, column: NDArray[np.object_]) -> NDArray[np.object_]:
        expected = 4 * math.prod(self.shape)
        lengths = {-1 if value is None else len(value) for value in column} - {expected}
        if lengths:
            raise FeedError(
                f"Column '{name}' of the training table has values of {sorted(lengths)} bytes (-1: null); "
                f"shape {self.shape} of float32 takes {expected}. Write the table again."
            )
        return column

    def _tensors(self, *columns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        *binary, label = columns
        channels = [tf.reshape(tf.io.decode_raw(column, tf.float32), (-1, *self.shape)) for column in binary]
        return tf.stack(channels, axis=-1), label


def _drawn(label: NDArray[np.float32], draw: NDArray[np.float64], negatives: Negatives) -> NDArray[np.bool_]:
    member, fraction = negatives
    return (label == 1) | (np.mod(draw.astype(np.float64) + member * GOLDEN, 1.0) < fraction)


def _filled(x: tf.Tensor, y: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """A batch of exactly `size` rows: its own, then copies of them labelled as padding."""
    position = tf.range(size)
    own = tf.shape(y)[0]
    x = tf.ensure_shape(tf.gather(x, position % own), (size, *x.shape[1:]))
    return x, tf.where(position < own, tf.gather(y, position % own), PADDING)


class _QuotedFiles(FileSystem):  # type: ignore[misc]
    """Local files named as in a URL: petastorm takes only URLs, and cuts paths at '#' and '?'."""

    def open(self, path: str, mode: str = "rb") -> Any:
        return open(unquote_to_bytes(path), mode)

    def isfile(self, path: str) -> bool:
        return os.path.isfile(unquote_to_bytes(path))

    def isdir(self, path: str) -> bool:
        return os.path.isdir(unquote_to_bytes(path))


@contextmanager
def _reader(files: Sequence[str], names: Sequence[str], seed: int | None, shard: int, shards: int) -> Iterator[Reader]:
    urls = ["file://" + quote_from_bytes(os.fsencode(os.path.abspath(path))) for path in files]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        filesystem = _QuotedFiles()
    reader = make_batch_reader(
        urls,
        schema_fields=[re.escape(name) for name in names],
        reader_pool_type="thread",
        workers_count=_THREADS,
        shuffle_row_groups=seed is not None,
        seed=None if seed is None else 1 + seed,  # petastorm takes 0 for none
        cur_shard=shard,
        shard_count=shards,
        filesystem=filesystem,
    )
    try:
        _hand_out(reader)
        yield reader
    finally:
        reader.stop()
        reader.join()


def _hand_out(reader: Reader) -> None:
    """Wait until every row group has been given to a thread, before the first row is asked for.

    petastorm 0.13.1 hands row groups out in a thread of its own, while `ThreadPool.get_results` asks first whether all that was handed
    out is done, then whether the handing out is over. Where the last row groups are handed out between the two questions it answers "no
    more rows", and they are lost without an error; where a thread has not got its row group yet, its turn is passed over, and the order
    of the rows changes. Neither can happen once all is handed out. What waits are numbers of row groups: the rows read ahead stay bounded
    by the threads' own queues.
    """
    ventilator = reader.ventilator
    ventilator._max_ventilation_queue_size = math.inf
    ventilator._ventilation_thread.join()


@contextmanager
def told() -> Iterator[None]:
    """Raise what went wrong in a feed as the :class:`FeedError` that it was, and not as TensorFlow passes it on."""
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"FeedError: (.+)", str(error))
        if found is None:
            raise
        raise FeedError(found[1].strip()) from None
