"""All golden cases: the frames of cases_*.py, by direction."""

from __future__ import annotations

from kafka_protocol.schema import info_of
from tests.protocol import (
    cases_admin,
    cases_configs,
    cases_groups,
    cases_groups_admin,
    cases_offsets,
    cases_requests,
    cases_responses,
)

CASES = [
    *cases_requests.REQUESTS,
    *cases_responses.RESPONSES,
    *cases_admin.CASES,
    *cases_configs.CASES,
    *cases_groups.CASES,
    *cases_groups_admin.CASES,
    *cases_offsets.CASES,
]
REQUESTS = [case for case in CASES if info_of(type(case.message)).kind == "request"]
RESPONSES = [case for case in CASES if info_of(type(case.message)).kind == "response"]
