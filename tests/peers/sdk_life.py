"""One life of a sandbox by the vendor's SDK: sdk_life.py sync|async.

The server is named by PRIME_API_BASE_URL. Fails by an assertion. Exits with 3 where the SDK
makes virtual machines only.
"""

import asyncio
import inspect
import os
import sys
import tempfile
import urllib.error
import urllib.request

import prime_sandboxes as sdk


async def done(value):
    return await value if inspect.isawaitable(value) else value


async def get(url):
    for _ in range(100):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read()
        except urllib.error.HTTPError:
            await asyncio.sleep(0.1)
    raise AssertionError("the exposed port never answered")


async def live(client, folder):
    fields = {"name": "sdk é", "docker_image": "python:3.11-slim", "labels": ["a b", "é/ü"]}
    if "vm" in sdk.CreateSandboxRequest.model_fields:
        fields["vm"] = False
    box = await done(client.create(sdk.CreateSandboxRequest(**fields)))
    await done(client.wait_for_creation(box.id))
    await done(client.bulk_wait_for_creation([box.id]))
    assert (await done(client.list(labels=["é/ü"]))).total == 1

    result = await done(client.execute_command(box.id, "echo 42; echo e >&2; exit 7"))
    assert (result.stdout, result.stderr, result.exit_code) == ("42\n", "e\n", 7)
    try:
        await done(client.execute_command(box.id, "sleep 30", timeout=1))
        raise AssertionError("no timeout")
    except sdk.CommandTimeoutError:
        pass

    content = bytes(range(256)) * 1000
    await done(client.upload_bytes(box.id, "/tmp/new/á b", content, "á"))
    target = os.path.join(folder, "down")
    await done(client.download_file(box.id, "/tmp/new/á b", target))
    with open(target, "rb") as file:
        assert file.read() == content
    assert "running" in await done(client.get_logs(box.id))

    job = await done(client.start_background_job(box.id, "echo hi; exit 5"))
    status = await done(client.get_background_job(box.id, job))
    while not status.completed:
        await asyncio.sleep(0.1)
        status = await done(client.get_background_job(box.id, job))
    assert (status.exit_code, status.stdout) == (5, "hi\n")

    server = "cd /tmp; nohup python3 -m http.server 8000 > /dev/null 2>&1 &"
    await done(client.execute_command(box.id, server))
    exposed = await done(client.expose(box.id, 8000, "web"))
    assert b"new" in await get(exposed.url)
    assert len((await done(client.list_exposed_ports(box.id))).exposures) == 1
    await done(client.unexpose(box.id, exposed.exposure_id))

    await done(client.delete(box.id))
    assert (await done(client.get(box.id))).status == "TERMINATED"


async def main():
    if "checkpoint_id" in sdk.CreateSandboxRequest.model_fields:
        sys.exit(3)
    is_async = sys.argv[1] == "async"
    client = sdk.AsyncSandboxClient() if is_async else sdk.SandboxClient(sdk.APIClient())
    with tempfile.TemporaryDirectory() as folder:
        await live(client, folder)
    if is_async:
        await client.aclose()


asyncio.run(main())
