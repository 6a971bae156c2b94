"""What the OpenAPI description says, tried out: generated requests to every operation, each answer as described."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks

from tests.attacks.conftest import check_whole
from tests.http.conftest import Service

EXAMPLES = 10
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)


def trial(operation: Any) -> Callable[[], None]:
    """Return a function that sends generated requests to an operation and raises what does not fit its description."""

    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any) -> None:
        case.validate_response(case.call(timeout=60), checks=checks.CHECKS.get_by_names(CHECKS))

    return run


@pytest.mark.slow
def test_every_operation_answers_as_it_is_described(fortress: Service) -> None:
    before = fortress.processes()
    description = schemathesis.openapi.from_url(f"{fortress.url}/openapi.json")
    operations = [found.ok() for found in description.get_all_operations()]
    assert len(operations) >= 6
    failures: list[str] = []
    for operation in operations:
        try:
            trial(operation)()
        except Exception as error:  # every operation's, not the first one's alone
            reasons = getattr(error, "exceptions", [error])
            failures += [f"{operation.label}: {reason}" for reason in reasons]
    assert not failures, "\n\n".join(failures)
    check_whole(fortress, before)
