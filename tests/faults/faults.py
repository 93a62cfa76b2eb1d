"""The faults: one function each, in a closed registry. Real signals to real processes, real bytes on a real disk.

A fault is injected, lasts, and is healed again before its function returns. It returns an `Injected`: what was done, to
whom, and how to see that it has had an effect. Where there is nothing that it could hit it raises `NothingToHit`, and
`Busy` where another fault is at work.
"""

from __future__ import annotations

from tests.faults.injection_context import Fault
from tests.faults.injections import clocks, disks, kills, messages, network, outages, stops

KILLS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kills.kill_training,
        kills.kill_supervisor,
        kills.kill_celery_parent,
        kills.kill_worker,
        kills.kill_api,
        kills.kill_relay,
    )
}
FAULTS: dict[str, Fault] = KILLS | {
    fault.__name__: fault
    for fault in (
        stops.stop_worker,
        stops.stop_supervisor,
        stops.stop_training,
        stops.stop_api,
        outages.restart_broker,
        outages.empty_broker,
        outages.restart_postgres,
        network.cut_worker_off,
        network.lose_worker,
        outages.api_away,
        outages.database_away,
        outages.broker_away,
        network.lose_answers,
        network.lose_answers_to_clients,
        network.slow_network,
        messages.duplicate_messages,
        messages.late_messages,
        disks.full_api_disk,
        disks.full_worker_disk,
        disks.damage_published_checkpoint,
        disks.damage_downloaded_checkpoint,
        disks.damage_waiting_checkpoint,
        clocks.wrong_clock,
    )
}
