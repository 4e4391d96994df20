// Work of our own on libuv's threads.

#include "fs_job.h"

#include "reactor.h"

static void on_run(uv_work_t *work) {
  FsJob *job = work->data;
  job->result = job->run(job);
}

static void on_through(uv_work_t *work, int status) {
  FsJob *job = work->data;
  job->through = true;
  if (job->over != NULL) job->over(job);
  if (job->wait.settled) {
    wait_done(&job->wait);
  } else {
    wait_settle(&job->wait, status == 0 ? job->result : status);
  }
}

static void close_job(Wait *wait) {
  FsJob *job = (FsJob *)wait;
  if (job->through) {
    wait_done(wait);
    return;
  }
  atomic_store(&job->stop, true);
  (void)uv_cancel((uv_req_t *)&job->work);  // perhaps too late
}

static FsJob *prepare_job(FsJob *job, int (*run)(FsJob *job)) {
  job->work.data = job;
  job->run = run;
  job->result = UV_ECANCELED;  // until it has run
  atomic_init(&job->stop, false);
  return job;
}

void *fs_job_new(lua_State *L, size_t size, int (*run)(FsJob *job),
                 const char *what) {
  return prepare_job(wait_new(L, size, close_job, what), run);
}

void *fs_job_new_shielded(lua_State *L, size_t size, int (*run)(FsJob *job),
                          const char *what) {
  return prepare_job(wait_new_shielded(L, size, close_job, what), run);
}

int fs_job_yield(lua_State *L, FsJob *job, lua_KFunction end) {
  // It refuses nothing but a missing function.
  (void)uv_queue_work(&reactor_of(L)->loop, &job->work, on_run, on_through);
  return wait_yield(L, &job->wait, end);
}
