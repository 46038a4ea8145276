"""The closing line of a backend, for each thing that can become of what was logged."""

from __future__ import annotations

from typing import Any

import pytest

from tracelet_otel.delivery.summary import BackendReport, amount, say

CAPTURED: dict[str, Any] = {"name": "aim", "captured_points": 1500, "captured_records": 1}
REPLAY = "deliver it with: tracelet-otel replay '/a b/spool' --backend aim"


def test_an_amount_is_a_number_of_points_and_records() -> None:
    assert [amount(*numbers) for numbers in ((0, 0), (1, 0), (0, 1), (2, 3000))] == [
        "",
        "1 point",
        "1 record",
        "2 points and 3,000 records",
    ]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"delivered_points": 1500, "delivered_records": 1, "locations": ["/a", "/b", "/c"]},
            "captured 1,500 points and 1 record, delivered all -> /a and 2 more",
        ),
        (
            {"delivered_points": 1500, "error": "no answer", "locations": ["/a"]},
            "captured 1,500 points and 1 record, delivered 1,500 points, dropped 1 record: no answer -> /a",
        ),
        (
            {"spooled_points": 1500, "spooled_records": 1, "left": True, "spool": "/a b/spool"},
            "captured 1,500 points and 1 record, delivered nothing, spooled 1,500 points and 1 record; "
            + REPLAY,
        ),
        (
            {"delivered_points": 1500, "delivered_records": 1, "left": True, "error": "refused"},
            (
                "captured 1,500 points and 1 record, delivered 1,500 points and 1 record, "
                "spooled the end of the run: refused"
            ),
        ),
        (
            {
                "delivered_points": 1000,
                "waiting_points": 500,
                "waiting_records": 1,
                "agent": 7,
                "error": "slow",
            },
            (
                "captured 1,500 points and 1 record, delivered 1,000 points, "
                "the agent (process 7) goes on with 500 points and 1 record"
            ),
        ),
        (
            {"delivered_points": 1500, "delivered_records": 1, "agent": 7},
            (
                "captured 1,500 points and 1 record, delivered 1,500 points and 1 record, "
                "the agent (process 7) goes on with the end of the run"
            ),
        ),
        (
            {
                "delivered_points": 1000,
                "waiting_points": 500,
                "waiting_records": 1,
                "agent": 7,
                "works": False,
                "error": "refused",
                "agent_spool": "/a b/spool",
            },
            "captured 1,500 points and 1 record, delivered 1,000 points, "
            "spooled 500 points and 1 record: refused; " + REPLAY,
        ),
        (
            {
                "waiting_points": 1500,
                "waiting_records": 1,
                "agent": 7,
                "works": False,
                "unwritten_points": 500,
            },
            (
                "captured 1,500 points and 1 record, delivered nothing, spooled 1,000 points and 1 record, "
                "only in memory of the agent (process 7) 500 points"
            ),
        ),
    ],
)
def test_a_line_says_what_became_of_everything(fields: dict[str, Any], line: str) -> None:
    assert str(BackendReport(**CAPTURED, **fields)) == f"aim: {line}"


def test_the_line_of_a_file_says_how_to_deliver_it() -> None:
    report = BackendReport(name="file", locations=["/a b"])
    assert str(report) == (
        "file: captured nothing, delivered all -> /a b; "
        "deliver it with: tracelet-otel replay '/a b' --backend NAME"
    )


def test_a_line_is_said_without_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    say("mlflow: https://user:hunter22@host/ is away")
    assert capfd.readouterr().err.startswith("tracelet-otel: mlflow: https://")
    say("password=hunter22")
    assert "hunter22" not in capfd.readouterr().err
