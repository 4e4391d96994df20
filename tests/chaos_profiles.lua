-- Kinds of trouble that a fleet must come through. Each is what a chaos file returns.
-- Loaded with dofile.

return {
  calm = { all = { latency = { p50 = 0.01, p99 = 0.3 } } },
  slow = { all = { latency = { p50 = 0.5, p99 = 8 } }, sandboxes = { boot = { 5, 60 } } },
  throttled = { all = { answers = { [429] = { p = 0.3, retry_after = 2 } } } },
  throttled_unsaid = { all = { answers = { [429] = 0.3 } } },
  bad_gateway = { all = { answers = { [502] = 0.1, [503] = 0.05, [504] = 0.05, [524] = 0.02 } } },
  broken_server = { all = { answers = { [500] = 0.1 } } },
  late_gateway = { all = { answers = {
    [502] = { p = 0.06, after = true }, [504] = { p = 0.06, after = true },
    [500] = { p = 0.03, after = true },
  } } },
  lost = { all = { lost = 0.12 } },
  cut = { all = { cut = { p = 0.15, at = { 0, 1200 } } } },
  twice = { all = { duplicate = 0.3 } },
  conflicts = { create = { answers = { [409] = 0.15 } }, delete = { answers = { [409] = 0.2 } } },
  images = { sandboxes = { image_pull = 0.3, boot = { 0, 10 } } },
  deaths = { sandboxes = { death = { p = 0.5, after = { 1, 40 }, error_type = "OOM_KILLED" } } },
  wrong_clock = { clock = { offset = -3600, drift = 0.01 } },
  early_clock = { clock = { offset = 7200 } },
  deletes_lost = {
    delete = { lost = 0.5, answers = { [500] = 0.2, [504] = { p = 0.2, after = true } } },
    bulk_delete = { lost = 0.3, answers = { [502] = 0.3 } },
  },
  everything = {
    all = {
      latency = { p50 = 0.05, p99 = 2 }, lost = 0.03, cut = 0.03, duplicate = 0.05,
      answers = {
        [429] = { p = 0.05, retry_after = 1 }, [500] = 0.02, [502] = 0.02, [503] = 0.02,
        [504] = { p = 0.02, after = true },
      },
    },
    clock = { offset = 90 },
    sandboxes = { image_pull = 0.05, boot = { 0, 5 }, death = { p = 0.1, after = { 5, 60 } } },
  },
}
