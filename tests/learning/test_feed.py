"""The feed: every row once, in an order that repeats, whatever the files are called and however petastorm is hurried."""

import gc
import itertools
import os
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nalspark.errors import FeedError, TrainingError
from nalspark.learning import feed as feed_module
from nalspark.learning.feed import PADDING, Feed

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]
needs_petastorm = pytest.mark.usefixtures("petastorm")
SHAPE, COLUMNS = (2, 3), ("image_residual", "image_inverse_error")


def make_table(folder, sizes=(40, 25, 0, 60), group=16, seed=0, **changed):
    """Files of `sizes` rows; every value of row i's first column is i, of its second -i. Returns labels and draws by row number."""
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    label, draw = (rng.random(total) < 0.3).astype("f4"), rng.random(total)
    start = 0
    for number, size in enumerate(sizes):
        rows = np.arange(start, start + size)
        columns = {
            "example_id": [f"x{i}" for i in rows],
            "image_residual": [np.full(SHAPE, i, "<f4").tobytes() for i in rows],
            "image_inverse_error": [np.full(SHAPE, -i, "<f4").tobytes() for i in rows],
            "label": pa.array(label[rows], pa.float32()),
            "draw": draw[rows],
        }
        path = folder / f"in_part={number}" / f"part-{number}.snappy.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({**columns, **{name: column[rows] for name, column in changed.items()}}), path, row_group_size=group)
        start += size
    return label, draw


def parquet_files(folder):
    return tuple(sorted(map(str, folder.rglob("*.parquet"))))


def feed_of(folder):
    return Feed(parquet_files(folder), COLUMNS, SHAPE)


def drained(dataset):
    """Row numbers without the padding, labels, all batches."""
    batches = [(x.numpy(), y.numpy()) for x, y in dataset]
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    np.testing.assert_array_equal(x[..., 0], -x[..., 1])  # the channels are of the same row
    assert (x == x[:, :1, :1]).all() or (x[..., 0] == x[:, :1, :1, 0]).all()
    own = y != PADDING
    return x[own, 0, 0, 0].astype(int), y[own], batches


@needs_petastorm
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_gives_every_row_once_with_its_label(tmp_path, shuffle):
    label, _ = make_table(tmp_path)
    feed = feed_of(tmp_path)
    numbers, y, batches = drained(feed.epoch(32, seed=1 if shuffle else None))
    assert feed.rows() == 125 and sorted(numbers) == list(range(125))
    assert (list(numbers) == list(range(125))) is not shuffle
    np.testing.assert_array_equal(y, label[numbers])
    assert {x.shape for x, _ in batches} == {(32, 2, 3, 2)} and len(batches) == feed.steps(32) == 4
    assert feed.tensor_shape == (2, 3, 2)


@needs_petastorm
def test_the_order_depends_on_the_seed_alone(tmp_path):
    make_table(tmp_path)
    orders = [tuple(drained(feed_of(tmp_path).epoch(32, seed=seed))[0]) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@needs_petastorm
def test_padding_is_copies_of_rows_that_count_for_nothing(tmp_path):
    make_table(tmp_path, sizes=(5,))
    ((x, y),) = [(x.numpy(), y.numpy()) for x, y in feed_of(tmp_path).epoch(12, seed=None)]
    assert list(y[5:]) == [PADDING] * 7
    assert list(x[:, 0, 0, 0]) == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]


@needs_petastorm
@pytest.mark.parametrize("negatives", [None, (2, 0.4)])
@pytest.mark.parametrize("shards", [2, 3])
def test_workers_share_the_rows_and_take_as_many_steps(tmp_path, shards, negatives):
    label, draw = make_table(tmp_path)
    feed = feed_of(tmp_path)
    told = [drained(feed.epoch(8, seed=4, shard=shard, shards=shards, negatives=negatives)) for shard in range(shards)]
    kept = np.ones(125, bool) if negatives is None else (label == 1) | ((draw + 2 * feed_module.GOLDEN) % 1 < 0.4)
    assert sorted(np.concatenate([numbers for numbers, _, _ in told])) == list(np.flatnonzero(kept))
    assert {len(batches) for _, _, batches in told} == {feed.steps(8, shards=shards, negatives=negatives)}
    assert all(x.shape == (8, 2, 3, 2) for _, _, batches in told for x, _ in batches)


@needs_petastorm
def test_a_worker_without_kept_rows_gets_only_padding(tmp_path):
    make_table(tmp_path, sizes=(16, 16), label=np.repeat([1, 0], 16).astype("f4"))
    feed = feed_of(tmp_path)
    numbers, _, batches = drained(feed.epoch(4, seed=0, shard=1, shards=2, negatives=(0, 0.0)))
    assert len(numbers) == 0 and len(batches) == 4


@needs_petastorm
def test_members_draw_all_positives_and_their_share_of_the_negatives(tmp_path):
    label, draw = make_table(tmp_path, sizes=(400, 400), group=100)
    feed = feed_of(tmp_path)
    fraction = feed.fraction(1.0)
    assert fraction == pytest.approx((label == 1).sum() / (label == 0).sum())
    drawn = [drained(feed.epoch(64, seed=0, negatives=(member, fraction))) for member in range(3)]
    for member, (numbers, y, _) in enumerate(drawn):
        expected = (label == 1) | (np.mod(draw + member * feed_module.GOLDEN, 1) < fraction)
        assert sorted(numbers) == list(np.flatnonzero(expected)) and feed.kept((member, fraction)) == len(numbers)
        assert (y == 0).sum() == pytest.approx((y == 1).sum(), rel=0.2)
    negatives = [set(numbers[y == 0]) for numbers, y, _ in drawn]
    assert negatives[0] != negatives[1] != negatives[2]
    assert feed.fraction(1e9) == 1.0


@needs_petastorm
def test_the_draw_is_as_the_training_table_says(tmp_path):
    make_table(tmp_path, sizes=(3,), label=np.zeros(3, "f4"), draw=np.array([0.1, 0.5, 0.9]))
    # Member 1 moves the draws on by 0.618: 0.718, 0.118, 0.518.
    assert list(drained(feed_of(tmp_path).epoch(3, seed=None, negatives=(1, 0.2)))[0]) == [1]
    assert list(drained(feed_of(tmp_path).epoch(3, seed=None, negatives=(0, 0.2)))[0]) == [0]


@needs_petastorm
def test_paths_may_hold_any_characters(tmp_path):
    folder = tmp_path / "a b#c?d%23 ü;e\n&{x}[1]=*"
    label, _ = make_table(folder)
    numbers, y, _ = drained(feed_of(folder).epoch(50, seed=0))
    assert sorted(numbers) == list(range(125)) and (y == label[numbers]).all()
    odd = os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff.parquet")  # a name that is not UTF-8
    os.rename(parquet_files(folder)[0], odd)
    assert len(drained(Feed((odd,), COLUMNS, SHAPE).epoch(50, seed=0))[0]) == 40


@pytest.fixture
def bursts(petastorm, monkeypatch):
    """Row groups are handed out late and four at a time, as on a busy machine."""
    from petastorm.workers_pool.ventilator import ConcurrentVentilator

    start, handed = ConcurrentVentilator.__init__, itertools.count()

    def late_start(self, ventilate, *arguments, **options):
        def late(**item):
            if next(handed) % 4 == 0:
                time.sleep(0.02)
            ventilate(**item)

        start(self, late, *arguments, **options)

    monkeypatch.setattr(ConcurrentVentilator, "__init__", late_start)


@needs_petastorm
def test_the_order_does_not_depend_on_when_row_groups_are_handed_out(tmp_path, monkeypatch, bursts):
    make_table(tmp_path, group=4)
    monkeypatch.setattr(feed_module, "_THREADS", 4)
    feed = feed_of(tmp_path)

    def orders(most):
        """Orders seen in `most` epochs; no more epochs once there are two."""
        seen = set()
        for _ in range(most):
            try:
                seen.add(tuple(np.concatenate([residual for residual, *_ in feed._read(3, 0, 1, None)])))
            except FeedError:
                seen.add("rows lost")
            if len(seen) > 1:
                break
        return seen

    assert len(orders(5)) == 1
    monkeypatch.setattr(feed_module, "_hand_out", lambda reader: None)
    assert len(orders(50)) > 1  # without the guard, petastorm passes over threads whose turn it is, or loses rows


@needs_petastorm
def test_rows_that_petastorm_loses_are_noticed(tmp_path, monkeypatch, bursts):
    """The race of get_results itself: all row groups are handed out between its two questions."""
    from petastorm.workers_pool.thread_pool import ThreadPool

    make_table(tmp_path, group=60)
    asked = ThreadPool.all_workers_done

    def interrupted(self):
        answer = asked(self)
        self._ventilator._ventilation_thread.join()
        return answer

    monkeypatch.setattr(ThreadPool, "all_workers_done", interrupted)
    assert len(drained(feed_of(tmp_path).epoch(32, seed=3))[0]) == 125
    monkeypatch.setattr(feed_module, "_hand_out", lambda reader: None)
    with pytest.raises(FeedError, match="An epoch gave 0 rows; the 4 training files hold 125"), feed_module.told():
        drained(feed_of(tmp_path).epoch(32, seed=3))


@needs_petastorm
def test_faulty_tables_are_told_in_a_sentence(tmp_path):
    make_table(tmp_path / "a", sizes=(3,), image_residual=np.array([b"1234", None, b"x" * 24], object))
    with pytest.raises(FeedError, match=r"'image_residual' .* values of \[-1, 4\] bytes .* takes 24"), feed_module.told():
        drained(feed_of(tmp_path / "a").epoch(3, seed=0))
    make_table(tmp_path / "b", sizes=(3,), label=np.array([0, 1, 2], "f4"))
    with pytest.raises(FeedError, match="labels other than 0 and 1"):
        feed_of(tmp_path / "b").fraction(1.0)
    make_table(tmp_path / "one label", sizes=(3,), label=np.ones(3, "f4"))
    with pytest.raises(FeedError, match="Of 3 training rows 3 are labelled 1"):
        feed_of(tmp_path / "one label").fraction(1.0)
    with pytest.raises(FeedError, match="has no column flux"):
        Feed(parquet_files(tmp_path / "b"), ("flux",), (6,)).rows()
    make_table(tmp_path / "c", sizes=(3,))
    with pytest.raises(FeedError, match="3 rows in 1 row groups; 2 workers"):
        feed_of(tmp_path / "c").epoch(3, seed=0, shards=2)
    (tmp_path / "d.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(FeedError, match="d.parquet' cannot be read"):
        Feed((str(tmp_path / "d.parquet"),), COLUMNS, SHAPE).rows()


@needs_petastorm
def test_a_file_damaged_between_footers_is_told(tmp_path):
    """Also where it is damaged after its rows were counted."""
    make_table(tmp_path, sizes=(300,))
    (path,) = parquet_files(tmp_path)
    counted = feed_of(tmp_path)
    assert counted.rows() == 300
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:20] + bytes(len(content) // 2 - 20) + content[len(content) // 2 :])
    with pytest.raises(FeedError, match="part-0.snappy.parquet' cannot be read"):
        feed_of(tmp_path).fraction(1.0)
    with pytest.raises(FeedError, match="training files cannot be read"), feed_module.told():
        drained(counted.epoch(16, seed=0))


@needs_petastorm
def test_an_epoch_may_be_left_early(tmp_path):
    make_table(tmp_path)
    for _ in range(5):
        for _ in feed_of(tmp_path).epoch(8, seed=0).take(1):
            break
    end = time.monotonic() + 10
    while petastorm_threads() and time.monotonic() < end:
        gc.collect()
        time.sleep(0.02)
    assert petastorm_threads() == []


def petastorm_threads():
    return [thread for thread in threading.enumerate() if type(thread).__name__ == "WorkerThread"]


@needs_petastorm
def test_petastorm_s_warnings_do_not_reach_the_user(tmp_path):
    make_table(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm(\.|$)")  # as the module sets it; pytest resets it
        drained(feed_of(tmp_path).epoch(32, seed=1, shards=2))
    assert [str(warning.message) for warning in caught if not issubclass(warning.category, ResourceWarning)] == []


def test_the_digest_follows_the_files(tmp_path):
    make_table(tmp_path / "a")
    make_table(tmp_path / "b", seed=1, sizes=(40, 25, 0, 61))
    assert feed_of(tmp_path / "a").digest() == feed_of(tmp_path / "a").digest() != feed_of(tmp_path / "b").digest()


def test_without_petastorm_files_are_counted_and_reading_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(feed_module, "_NO_PETASTORM", "No module named 'petastorm'")
    make_table(tmp_path)
    feed = feed_of(tmp_path)
    assert feed.rows() == 125 and feed.steps(32) == 4
    with pytest.raises(TrainingError, match=r"No module named 'petastorm'.*pip install 'nalspark\[train\]'"):
        feed.epoch(32, seed=0)
