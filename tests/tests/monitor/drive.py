"""Drives every command of a monitor with qemu.qmp: drive.py SOCKET FOLDER. Fails on the first surprise."""

import asyncio
import sys

from qemu.qmp import ExecuteError, QMPClient

SOCKET, FOLDER = sys.argv[1:]

# Commands with good arguments, in an order in which each finds what it needs.
STEPS = [
    ("query-version", {}),
    ("query-status", {}),
    ("query-name", {}),
    ("query-block", {}),
    ("query-named-block-nodes", {"flat": True}),
    ("query-blockstats", {}),
    ("query-block-stream", {}),
    ("query-block-jobs", {}),
    ("query-jobs", {}),
    ("query-qmp-schema", {}),
    ("human-monitor-command", {"command-line": "info block"}),
    ("blockdev-snapshot-sync", {"device": "virtio0", "snapshot-file": f"{FOLDER}/s1.qcow2"}),
    ("transaction", {"actions": [{"type": "blockdev-snapshot-sync", "data": {
        "device": "virtio0", "snapshot-file": f"{FOLDER}/s2.qcow2"}}]}),
    ("block_stream", {"device": "virtio0"}),
    ("block_resize", {"device": "virtio0", "size": 8 << 20}),
    ("x-live-copy", {"device": "virtio1", "target": f"{FOLDER}/copy.qcow2", "format": "qcow2"}),
    ("change", {"device": "cd0", "target": f"{FOLDER}/1.iso"}),
    ("blockdev-open-tray", {"id": "cd0"}),
    ("blockdev-close-tray", {"id": "cd0"}),
    ("blockdev-change-medium", {"id": "cd0", "filename": f"{FOLDER}/1.iso"}),
    ("eject", {"device": "cd0"}),
    ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": f"{FOLDER}/nbd"}}}),
    ("nbd-server-add", {"device": "virtio0"}),
    ("query-block-exports", {}),
    ("nbd-server-remove", {"name": "virtio0"}),
    ("block-export-add", {"type": "nbd", "id": "e1", "node-name": "virtio0"}),
    ("block-export-del", {"id": "e1"}),
    ("nbd-server-stop", {}),
    ("stop", {}),
    ("cont", {}),
    ("system_powerdown", {}),
    ("system_reset", {}),
]
# What is not driven here must refuse an argument that it does not have, in one of these ways.
CLASSES = {"GenericError", "CommandNotFound", "DeviceNotFound", "DeviceNotActive", "DeviceInUse", "NotSupported"}


async def main():
    client = QMPClient("driver")
    seen = []

    async def watch():
        async for event in client.events:
            seen.append(event["event"])

    await client.connect(SOCKET)
    watching = asyncio.create_task(watch())
    commands = {entry["name"] for entry in await client.execute("query-commands")}
    for name, arguments in STEPS:
        await client.execute(name, arguments)
        if name == "x-live-copy":
            while await client.execute("query-block-stream"):
                await asyncio.sleep(0.01)
    rest = commands - {name for name, _ in STEPS} - {"quit", "query-commands"}
    for name in sorted(rest):
        try:
            await client.execute(name, {"no-such-argument": 1})
        except ExecuteError as error:
            assert error.error_class in CLASSES, (name, error)
        else:
            raise AssertionError(f"{name} took an argument that it does not have")
    for event in ["BLOCK_SWITCHED", "BLOCK_STREAM_COMPLETED", "DEVICE_TRAY_MOVED", "BLOCK_EXPORT_DELETED",
                  "STOP", "RESUME", "POWERDOWN", "RESET"]:
        assert event in seen, (event, seen)
    await client.execute("quit")
    watching.cancel()
    await client.disconnect()
    print(f"{len(commands)} commands, {len(seen)} events")


asyncio.run(main())
