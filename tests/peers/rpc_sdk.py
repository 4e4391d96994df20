"""The vendor's SDK as a client of a virtual machine's command session.

Runs commands and a live process in the sandbox `sbx-1` of the API that the environment
names. Exits with 0 when all came as it should.
"""

import asyncio

from prime_sandboxes import (
    APIClient,
    AsyncSandboxClient,
    CommandTimeoutError,
    SandboxClient,
)


def check(condition, what):
    if not condition:
        raise SystemExit(f"wrong: {what!r}")


def commands():
    client = SandboxClient(APIClient())
    result = client.execute_command(
        "sbx-1", 'pwd; echo "$A"; echo oops >&2; exit 3', working_dir="/tmp", env={"A": "b c"}
    )
    check(result.stdout == "/tmp\nb c\n", result)
    check(result.stderr == "oops\n" and result.exit_code == 3, result)
    try:
        client.execute_command("sbx-1", "sleep 60", timeout=1)
        check(False, "a command over its time")
    except CommandTimeoutError:
        pass


async def live():
    client = AsyncSandboxClient()
    process = await client.open_process("sbx-1", 'while read x; do echo "<$x>"; done')
    await process.write_stdin(b"one\n")
    check(await anext(process.stdout) == b"<one>\n", "stdout")
    await process.terminate()
    check(await process.wait() == -1, "exit code")
    await process.aclose()
    await client.aclose()


commands()
asyncio.run(live())
