"""One life of a virtual machine by the vendor's SDK: sdk_vm.py sync|async.

The server is named by PRIME_API_BASE_URL; it makes virtual machines where nothing else is
asked for. Fails by an assertion. Exits with 3 where the SDK knows no virtual machines;
the newest ones know nothing else.
"""

import asyncio
import inspect
import os
import sys
import tempfile

import prime_sandboxes as sdk


async def done(value):
    return await value if inspect.isawaitable(value) else value


async def live_process(client, box):
    """What only the async client has."""
    process = await client.open_process(box.id, 'while read x; do echo "<$x>"; done')
    await process.write_stdin(b"one\n")
    assert await anext(process.stdout) == b"<one>\n"
    await process.terminate()
    assert await process.wait() == -1
    await process.aclose()


async def live(client, folder):
    box = await done(client.create(sdk.CreateSandboxRequest(name="vm", docker_image="i")))
    assert getattr(box, "vm", True) is True
    await done(client.wait_for_creation(box.id))

    result = await done(
        client.execute_command(
            box.id, 'pwd; echo "$A"; echo e >&2; exit 7', working_dir="/tmp", env={"A": "b c"}
        )
    )
    assert (result.stdout, result.stderr, result.exit_code) == ("/tmp\nb c\n", "e\n", 7)
    long = await done(client.execute_command(box.id, "seq 100000", timeout=30))
    assert long.stdout == "".join(f"{n}\n" for n in range(1, 100001))
    try:
        await done(client.execute_command(box.id, "sleep 30", timeout=1))
        raise AssertionError("no timeout")
    except sdk.CommandTimeoutError:
        pass
    # The mistake of one command is not the end of the machine.
    try:
        await done(client.execute_command(box.id, "true", working_dir="/nowhere"))
        raise AssertionError("no failure")
    except sdk.SandboxNotRunningError:
        raise
    except sdk.APIError:
        pass

    content = bytes(range(256)) * 1000
    await done(client.upload_bytes(box.id, "/tmp/new/a b", content, "a"))
    target = os.path.join(folder, "down")
    await done(client.download_file(box.id, "/tmp/new/a b", target))
    with open(target, "rb") as file:
        assert file.read() == content

    job = await done(client.start_background_job(box.id, "echo hi; exit 5"))
    status = await done(client.get_background_job(box.id, job))
    while not status.completed:
        await asyncio.sleep(0.1)
        status = await done(client.get_background_job(box.id, job))
    assert (status.exit_code, status.stdout) == (5, "hi\n")
    both = await done(client.run_background_job(box.id, "echo ran; exit 2", poll_interval=1))
    assert (both.exit_code, both.stdout) == (2, "ran\n")

    if hasattr(client, "get_background_job_statuses"):
        found = await done(client.get_background_job_statuses([job]))
        assert (found[0].completed, found[0].exit_code) == (True, 5)
    if hasattr(client, "set_network"):
        policy = await done(client.set_network(box.id, allow=["192.0.2.1", "198.51.100.0/24"]))
        assert policy.applied and policy.policy.allowlist == ["192.0.2.1", "198.51.100.0/24"]
        assert (await done(client.set_network(box.id, deny=["*"]))).policy.allowlist == []
    if hasattr(client, "open_process"):
        await live_process(client, box)

    await done(client.delete(box.id))
    try:
        await done(client.execute_command(box.id, "true"))
        raise AssertionError("it is gone")
    except sdk.SandboxNotRunningError:
        pass


async def main():
    fields = sdk.CreateSandboxRequest.model_fields
    if "vm" not in fields and "checkpoint_id" not in fields:
        sys.exit(3)
    is_async = sys.argv[1] == "async"
    client = sdk.AsyncSandboxClient() if is_async else sdk.SandboxClient(sdk.APIClient())
    with tempfile.TemporaryDirectory() as folder:
        await live(client, folder)
    if is_async:
        await client.aclose()


asyncio.run(main())
