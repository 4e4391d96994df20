// What the server's frames ask for, and to whom they go.

#include <stdlib.h>

#include "agent.h"

void *channel_new(Agent *agent, const ChannelKind *kind, uint32_t id,
                  size_t size) {
  if (agent->channel_count >= CHANNEL_LIMIT) return NULL;
  Channel *channel = calloc(1, size);
  if (!channel) return NULL;
  channel->kind = kind;
  channel->id = id;
  channel->credit = WINDOW;
  channel->next = agent->channels;
  agent->channels = channel;
  agent->channel_count++;
  return channel;
}

static Channel *find_channel(const Agent *agent, uint32_t id) {
  Channel *channel = agent->channels;
  while (channel && (channel->id != id || channel->detached))
    channel = channel->next;
  return channel && !channel->over ? channel : NULL;
}

static void add_credit(Channel *channel, const Frame *frame) {
  Cursor cursor = frame_cursor(frame);
  uint32_t more = take_u32(&cursor);
  if (more > CREDIT_LIMIT - channel->credit)
    more = CREDIT_LIMIT - channel->credit;
  channel->credit += more;
}

// Frames for a request that has ended are late, not wrong.
static void pass_on(Agent *agent, const Frame *frame) {
  Channel *channel = find_channel(agent, frame->id);
  if (!channel) return;
  const ChannelKind *kind = channel->kind;
  switch (frame->type) {
  case FRAME_CREDIT:
    add_credit(channel, frame);
    break;
  case FRAME_DATA:
    if (kind->on_data) kind->on_data(agent, channel, frame);
    break;
  case FRAME_EOF:
    if (kind->on_eof) kind->on_eof(agent, channel);
    break;
  case FRAME_KILL:
    kind->on_kill(agent, channel);
    break;
  case FRAME_SIGNAL:
    if (kind->on_signal) kind->on_signal(agent, channel, frame);
    break;
  case FRAME_RESIZE:
    if (kind->on_resize) kind->on_resize(agent, channel, frame);
    break;
  default:
    break;
  }
}

void request_dispatch(Agent *agent, const Frame *frame) {
  switch (frame->type) {
  case FRAME_EXEC:
    exec_start(agent, frame);
    break;
  case FRAME_START:
    session_start(agent, frame);
    break;
  case FRAME_HELD:
    session_list(agent, frame);
    break;
  case FRAME_ATTACH:
    session_attach(agent, frame);
    break;
  case FRAME_PUT:
    put_start(agent, frame);
    break;
  case FRAME_GET:
    get_start(agent, frame);
    break;
  case FRAME_STAT:
    stat_answer(agent, frame);
    break;
  case FRAME_DIAL:
    dial_start(agent, frame);
    break;
  case FRAME_SHUTDOWN:
    agent->ending = true;
    break;
  default:
    pass_on(agent, frame);
    break;
  }
}

void request_lose_all(Agent *agent) {
  for (Channel *channel = agent->channels; channel; channel = channel->next) {
    if (channel->detached) continue;
    channel->detached = true;
    if (channel->kind->on_lost)
      channel->kind->on_lost(agent, channel);
    else
      channel->over = true;
  }
}
