// What the agent inside a sandbox and the server say to each other over one
// stream socket. `lua/sbx/server/agent.lua` is the other end and repeats these
// numbers.
//
// A frame is `u32 length | u8 type | u32 id | payload`, integers big endian;
// `length` counts type, id and payload. A string is `u32 length | bytes | NUL`
// and holds no other NUL, so that it can be used where it lies.
//
// The server picks an id for each request, never 0 and never twice. The agent
// ends every request with exactly one of EXIT, STATED, DONE or FAIL, after
// which the id is forgotten and frames that still arrive for it are ignored.
//
// Bulk data is paced for each id: a side starts with WINDOW bytes that it may
// send as DATA, OUT or ERR, and CREDIT from the other side allows more.

#ifndef SBX_AGENT_PROTOCOL_H
#define SBX_AGENT_PROTOCOL_H

enum {
  PROTOCOL_VERSION = 1,
  FRAME_HEADER = 9,            // bytes before the payload
  FRAME_LIMIT = 1024 * 1024,   // largest `length`
  CHUNK = 64 * 1024,           // most bulk bytes in one frame
  WINDOW = 256 * 1024,         // bulk bytes a side may send before CREDIT
  CREDIT_LIMIT = 16 * WINDOW,  // most that may be outstanding
  EXEC_LIMIT = 256,            // commands at once; more FAIL with EAGAIN
  CHANNEL_LIMIT = 2048,        // requests of any kind at once
  ENVIRONMENT_LIMIT = 4096,    // entries that one EXEC may carry
};

enum FrameType {
  // From the server.
  FRAME_EXEC = 1,  // u32 timeout in ms or 0, u64 most bytes of each output,
                   // string cwd ("" = the agent's), string command,
                   // u32 count, count strings NAME=VALUE
  FRAME_PUT,       // u32 mode or 0, string path; then DATA ..., EOF
  FRAME_GET,       // i64 offset (negative: from the end), i64 length (negative:
                   // to the end), string path
  FRAME_STAT,      // string path
  FRAME_DIAL,      // u16 port; after OPENED both sides send DATA and EOF
  FRAME_KILL,      // ends the request with this id, a command with its tree
  FRAME_SHUTDOWN,  // id 0: ends the agent and with it the sandbox

  // Both ways.
  FRAME_DATA = 16,  // bulk bytes
  FRAME_EOF,        // no more DATA from this side
  FRAME_CREDIT,     // u32 bytes that the other side may send on top

  // From the agent.
  FRAME_HELLO = 32,  // id 0, once, first: u32 PROTOCOL_VERSION, u32 own pid
  FRAME_OUT,         // a command's standard output
  FRAME_ERR,         // a command's standard error
  FRAME_EXIT,        // i32 exit status (128 + signal), u8 of ExitFlag
  FRAME_OPENED,      // GET: u64 size of the whole file; DIAL: nothing
  FRAME_STATED,      // u8 of FileType, u32 mode, u64 size, i64 mtime in ns
  FRAME_DONE,        // PUT, GET: u64 bytes moved; DIAL, KILL of others: u64 0
  FRAME_FAIL,        // u32 errno, string what was tried
};

enum ExitFlag {
  EXIT_OUT_TRUNCATED = 1,  // standard output went on past the limit
  EXIT_ERR_TRUNCATED = 2,
  EXIT_TIMED_OUT = 4,  // the agent ended it when its time was over
  EXIT_KILLED = 8,     // the agent ended it, for whatever cause
};

enum FileType {
  FILE_OTHER,
  FILE_REGULAR,
  FILE_DIRECTORY,
};

#endif
