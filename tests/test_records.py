"""A log takes lines whole or not at all; what others changed in it is one sentence with its line and field."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from nas.errors import NasError
from nas.records import append_record, cut_torn_line, read_records
from tests.test_files import full_disk

OBJECT = TypeAdapter(dict[str, Any])


def read(log):
    return [record for _, record in read_records(log, OBJECT)]


def test_a_log_takes_a_line_whole_or_not_at_all(tmp_path):
    log = tmp_path / "log"
    append_record(log, {"a": 1})
    with full_disk(20), pytest.raises(NasError, match="cannot be written"):
        append_record(log, {"a": "x" * 50})
    append_record(log, {"a": 2})
    assert read(log) == [{"a": 1}, {"a": 2}]


def test_a_torn_last_line_is_left_out_and_any_other_is_refused(tmp_path):
    log = tmp_path / "log"
    log.write_text('{"a": 1}\n{"a": 2')
    assert read(log) == [{"a": 1}]
    cut_torn_line(log)
    append_record(log, {"a": 3})
    assert read(log) == [{"a": 1}, {"a": 3}]
    log.write_text('{"a": 1}\n{"a": 2\n{"a": 3}\n')
    with pytest.raises(NasError, match="line 2 is damaged"):
        read(log)


def test_a_whole_last_line_without_its_line_feed_is_kept(tmp_path):
    """As an editor may leave it."""
    log = tmp_path / "log"
    log.write_text('{"a": 1}\n{"a": 2}')
    cut_torn_line(log)
    append_record(log, {"a": 3})
    assert read(log) == [{"a": 1}, {"a": 2}, {"a": 3}]
