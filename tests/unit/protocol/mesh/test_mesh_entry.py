"""What is read of a record where it stands is what it says decoded."""

import json
from pathlib import Path

import pytest

from whalescale.protocol.mesh import records
from whalescale.protocol.mesh.entry import entry_of, subject_of
from whalescale.protocol.mesh.records import (
    AdminRecord,
    EndpointRecord,
    MemberRecord,
    RecordError,
    Status,
)
from whalescale.protocol.mesh.table import Table

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "mesh.json").read_text())
RAWS = sorted({bytes.fromhex(case["record"]) for case in VECTORS["records"]})


@pytest.mark.parametrize("raw", RAWS, ids=lambda raw: f"{raw[0]}-{len(raw)}")
def test_a_field_where_it_stands(raw):
    entry, record = entry_of(raw), records.decode(raw)
    assert entry.record == record
    assert entry.kind is record.kind
    assert entry.subject == records.subject_of(record)
    assert entry.version == records.version_of(record)
    revoked = isinstance(record, AdminRecord | MemberRecord) and record.status is Status.REVOKED
    assert entry.is_revocation == revoked
    if isinstance(record, MemberRecord):
        said = (entry.issuer, entry.name.decode(), entry.may_anchor, entry.has_routes)
        assert said == (record.issuer, record.name, record.may_anchor, bool(record.routes))
        assert entry.address == (record.address.packed if record.address else bytes(4))
    if isinstance(record, EndpointRecord):
        assert entry.has_places == bool(record.places)
        assert entry.acts_as_anchor == (record.anchor and bool(record.places))


def test_every_kind_is_among_them():
    assert {raw[0] for raw in RAWS} == set(records.Kind)


def test_a_table_keeps_bytes_and_no_more():
    table = Table()
    for raw in RAWS:
        table.put(entry_of(raw))
        found = table.known(bytes(bytearray(raw)))
        assert found is not None
        assert found.raw is raw


@pytest.mark.parametrize("raw", [b"", b"\x01", b"\x03" * 20, bytes(400)])
def test_bytes_that_are_none_are_not_known(raw):
    assert Table().known(raw) is None
    assert len(subject_of(raw)) <= 32
    with pytest.raises(RecordError):
        records.decode(raw)
