"""Runs every command of a monitor with qemu.qmp: drive.py SOCKET FOLDER. Fails at any surprise."""

import asyncio
import sys

from qemu.qmp import ExecuteError, QMPClient

SOCKET, FOLDER = sys.argv[1:]

# Commands with valid arguments, in an order in which each finds what it needs.
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
# All other commands must refuse an unknown argument with one of these classes.
CLASSES = {"GenericError", "CommandNotFound", "DeviceNotFound", "DeviceNotActive", "DeviceInUse", "NotSupported"}


async def until(client, status):
    """Waits until the only job has this state; None: until there is no job."""
    while True:
        jobs = await client.execute("query-jobs")
        await client.execute("query-block-jobs")
        if (jobs[0]["status"] if jobs else None) == status:
            return jobs
        await asyncio.sleep(0.01)


async def jobs(client):
    """Runs every job command; returns their names."""
    ran = {"query-jobs", "query-block-jobs", "block-stream"}

    async def run(name, **arguments):
        ran.add(name)
        return await client.execute(name, arguments)

    async def refused(name, **arguments):
        try:
            await run(name, **arguments)
        except ExecuteError as error:
            return error
        raise AssertionError(f"{name} {arguments} was not refused")

    async def start(**more):
        # The disk's new overlay is empty, so there is something to copy.
        await client.execute("blockdev-snapshot-sync", {
            "device": "virtio0", "snapshot-file": f"{FOLDER}/job{len(ran)}-{len(more)}.qcow2"})
        await client.execute("block-stream", {
            "device": "virtio0", "job-id": "j", "speed": 65536, "on-error": "stop", "auto-dismiss": False, **more})

    await start(**{"filter-node-name": "filter", "backing-mask-protocol": True})
    await run("job-pause", id="j")
    await until(client, "paused")
    await run("block-job-resume", device="j")
    await run("block-job-pause", device="j")
    await run("job-resume", id="j")
    assert (await refused("job-complete", id="j")).error_class == "GenericError"
    assert (await refused("block-job-complete", device="j")).error_class == "GenericError"
    await run("job-cancel", id="j")
    ended = await until(client, "concluded")
    assert ended[0]["error"] == "Operation canceled", ended
    await run("job-dismiss", id="j")
    for finalize, dismiss in [("job-finalize", "job-dismiss"), ("block-job-finalize", "block-job-dismiss")]:
        await start(**{"auto-finalize": False})
        await run("block-job-set-speed", device="j", speed=0)
        await until(client, "pending")
        await run(finalize, id="j")
        await until(client, "concluded")
        await run(dismiss, id="j")
    await start()
    await run("block-job-cancel", device="j", force=True)
    await until(client, "concluded")
    await run("block-job-dismiss", id="j")
    assert (await refused("block-job-cancel", device="j")).error_class == "DeviceNotActive"
    return ran


async def copy(client):
    """Moves a disk to an image by libvirt's sequence for blockcopy."""

    async def until_ready():
        while True:
            jobs = await client.execute("query-block-jobs")
            if jobs[0]["ready"]:
                return
            await asyncio.sleep(0.01)

    await client.execute("blockdev-add", {
        "driver": "file", "filename": f"{FOLDER}/target.img", "node-name": "target-storage",
        "auto-read-only": True, "discard": "unmap"})
    await client.execute("blockdev-add", {
        "driver": "raw", "file": "target-storage", "node-name": "target-format", "read-only": False})
    await client.execute("blockdev-mirror", {
        "device": "virtio1", "target": "target-format", "job-id": "copy", "sync": "full",
        "granularity": 65536, "buf-size": 1 << 20, "auto-finalize": False, "auto-dismiss": False})
    await until_ready()
    change = {"id": "copy", "type": "mirror"}
    for mode, synced in [("write-blocking", True), ("background", False), ("write-blocking", True)]:
        await client.execute("block-job-change", {**change, "copy-mode": mode})
        assert (await client.execute("query-block-jobs"))[0]["actively-synced"] == synced, mode
    await client.execute("job-complete", {"id": "copy"})
    await until(client, "pending")
    await client.execute("job-finalize", {"id": "copy"})
    await until(client, "concluded")
    await client.execute("job-dismiss", {"id": "copy"})
    await client.execute("blockdev-snapshot-sync", {
        "device": "virtio1", "snapshot-file": f"{FOLDER}/top.qcow2"})
    await client.execute("block-commit", {"device": "virtio1", "job-id": "commit"})
    await until_ready()
    await client.execute("block-job-complete", {"device": "commit"})
    await until(client, None)
    nodes = await client.execute("query-named-block-nodes", {"flat": True})
    assert "target-format" in [node["node-name"] for node in nodes], nodes
    try:
        await client.execute("blockdev-del", {"node-name": "target-format"})
    except ExecuteError as error:
        assert error.error_class == "GenericError", error
    else:
        raise AssertionError("the node that a disk runs on was removed")


async def back_up(client):
    """Copies two disks at one moment."""
    await client.execute("transaction", {"actions": [
        {"type": "drive-backup", "data": {
            "device": device, "job-id": f"backup-{device}", "target": f"{FOLDER}/{device}.backup", "format": "qcow2",
            "sync": "full", "auto-dismiss": False}} for device in ["virtio0", "virtio1"]]})
    while True:
        jobs = await client.execute("query-jobs")
        if all(job["status"] == "concluded" for job in jobs):
            break
        await asyncio.sleep(0.01)
    assert len(jobs) == 2 and not any("error" in job for job in jobs), jobs
    for job in jobs:
        await client.execute("job-dismiss", {"id": job["id"]})


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
    ran = await jobs(client)
    await copy(client)
    await back_up(client)
    ran |= {"block-job-change", "blockdev-add", "blockdev-mirror", "block-commit", "blockdev-del"}
    rest = commands - ran - {name for name, _ in STEPS} - {"quit", "query-commands"}
    assert not [name for name in rest if "job" in name], rest
    for name in sorted(rest):
        try:
            await client.execute(name, {"no-such-argument": 1})
        except ExecuteError as error:
            assert error.error_class in CLASSES, (name, error)
        else:
            raise AssertionError(f"{name} took an argument that it does not have")
    for event in ["BLOCK_SWITCHED", "BLOCK_STREAM_COMPLETED", "DEVICE_TRAY_MOVED", "BLOCK_EXPORT_DELETED",
                  "STOP", "RESUME", "POWERDOWN", "RESET",
                  "JOB_STATUS_CHANGE", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED", "BLOCK_JOB_PENDING"]:
        assert event in seen, (event, seen)
    await client.execute("quit")
    watching.cancel()
    await client.disconnect()
    print(f"{len(commands)} commands, {len(seen)} events")


asyncio.run(main())
