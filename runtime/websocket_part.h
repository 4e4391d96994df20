// What the files of the WebSocket share among themselves. `websocket.h` is the
// contract with everything else. All may find, or leave, the connection ended:
// then `dial` is NULL.

#ifndef SBX_WEBSOCKET_PART_H
#define SBX_WEBSOCKET_PART_H

#include "websocket.h"

// websocket.c

// Lets go of the connection and wakes whoever waits.
void websocket_end(Websocket *socket);

// Notes why, and ends.
void websocket_fail(Websocket *socket, const char *kind, const char *code,
                    const char *phase, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

// Ends because the connection is gone, with a libuv error or 0 at its end.
// After a Close that is no failure.
void websocket_lose(Websocket *socket, ssize_t status, const char *phase);

static inline void websocket_settle(Wait *wait) {
  if (wait) wait_settle(wait, 0);
}

// websocket_in.c

// Whether there is a use for what the server may send.
bool websocket_wants_bytes(const Websocket *socket);

// Reads what has come, and acts on it.
void websocket_pull(Websocket *socket);
void websocket_feed(Websocket *socket, const uint8_t *bytes, size_t size);

// websocket_out.c

// Sends what is due until the kernel takes no more.
void websocket_push(Websocket *socket);

// Makes a Close frame due. CLOSE_NO_CODE: one without a code.
void websocket_put_close(Websocket *socket, unsigned code, const char *reason,
                         size_t size);

// Says Close if that can be done at once, before the connection is let go.
void websocket_say_close(Websocket *socket, unsigned code);

#endif
