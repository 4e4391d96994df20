"""Background jobs by the vendor's SDK: sdk_jobs.py SANDBOX JOB.

Looks at a job that another client started, whose command ended with status 5, and
starts one of its own, whose id it prints. The server is named by PRIME_API_BASE_URL. Exits
with 3 where the SDK makes virtual machines only.
"""

import sys
import time

import prime_sandboxes as sdk
from prime_sandboxes.models import BackgroundJob

if "checkpoint_id" in sdk.CreateSandboxRequest.model_fields:
    sys.exit(3)
sandbox, number = sys.argv[1:]
stem = f"/tmp/job_{number}"
client = sdk.SandboxClient(sdk.APIClient())
job = BackgroundJob(
    job_id=number,
    sandbox_id=sandbox,
    stdout_log_file=stem + ".stdout.log",
    stderr_log_file=stem + ".stderr.log",
    exit_file=stem + ".exit",
)
status = client.get_background_job(sandbox, job)
assert status.completed and status.exit_code == 5, status
assert status.stdout == "out ü\n" and status.stderr == "err\n", status

own = client.start_background_job(sandbox, "echo \"sdk's\"; echo e >&2; exit 6", env={"A": "b"})
while not client.get_background_job(sandbox, own).completed:
    time.sleep(0.05)
print(own.job_id)
