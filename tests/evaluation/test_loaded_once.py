from cl.evaluation.loaded_once import LoadedOnce
from cl.views.samples import DataSet


def test_reads_at_the_first_load_only(pictures):
    data = pictures([0, 1, 2])
    once = LoadedOnce(data)
    assert isinstance(once, DataSet) and once.provides == data.provides
    assert data.readings == 0
    assert once.load() is once.load() and data.readings == 1
    assert [len(part) for part in once.read(2)] == [2, 1]
