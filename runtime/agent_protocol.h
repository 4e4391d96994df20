// What the agent inside a sandbox and the server say to each other over one
// stream. `lua/sbx/server/agent.lua` is the other end and repeats these
// numbers.
//
// A frame is `u32 length | u8 type | u32 id | payload`, integers big endian;
// `length` counts type, id and payload. A string is `u32 length | bytes | NUL`
// and holds no other NUL, so that it can be used where it lies.
//
// The server picks an id for each request, never 0 and never twice. The agent
// ends every request with exactly one of EXIT, STATED, DONE or FAIL, after
// which the id is forgotten and frames that still arrive for it are ignored.
// A connection begins with HELLO and has its own ids: where the agent listens
// and a connection ends, commands go on to their end but are of no id any more.
// A program that was started with a note is held: the next server may ask which
// there are, and take each up under an id of its own.
//
// Bulk data is paced for each id: a side starts with WINDOW bytes that it may
// send as DATA, OUT or ERR, and CREDIT from the other side allows more.

#ifndef SBX_AGENT_PROTOCOL_H
#define SBX_AGENT_PROTOCOL_H

enum {
  PROTOCOL_VERSION = 2,
  FRAME_HEADER = 9,            // bytes before the payload
  FRAME_LIMIT = 1024 * 1024,   // largest `length`
  CHUNK = 64 * 1024,           // most bulk bytes in one frame
  WINDOW = 256 * 1024,         // bulk bytes a side may send before CREDIT
  CREDIT_LIMIT = 16 * WINDOW,  // most that may be outstanding
  EXEC_LIMIT = 256,            // EXECs at once; more FAIL with EAGAIN
  SESSION_LIMIT = 256,         // STARTs at once; more FAIL with EAGAIN
  CHANNEL_LIMIT = 2048,        // requests of any kind at once
  ENVIRONMENT_LIMIT = 4096,    // entries that one EXEC or START may carry
  ARGUMENT_LIMIT = 16384,      // arguments that one START may carry
  NOTE_LIMIT = 32 * 1024,      // bytes of a START's note
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
  FRAME_START,     // u8 of StartFlag, u16 columns, u16 rows, string cwd, u32
                   // count, count strings argv, u32 count, count strings
                   // NAME=VALUE; STARTED or FAIL, then input as DATA and EOF,
                   // output as OUT and ERR (a terminal's as OUT), then EXIT;
                   // with START_HELD a string, its note, is last
  FRAME_RESIZE,    // of a START with a terminal: u16 columns, u16 rows
  FRAME_SIGNAL,    // to the process group of a START: u8 number
  FRAME_HELD,    // HOLDS for each program that waits to be taken up, then DONE
  FRAME_ATTACH,  // u32 key: goes on as a START that has STARTED, or FAIL. Input
                 // may be sent once CREDIT has come; output of meanwhile is
                 // lost. Of a program that has ended EXIT follows at once

  // Both ways.
  FRAME_DATA = 16,  // bulk bytes
  FRAME_EOF,        // no more DATA from this side
  FRAME_CREDIT,     // u32 bytes that the other side may send on top

  // From the agent.
  FRAME_HELLO = 32,    // id 0, once, first: u32 PROTOCOL_VERSION, u32 own pid,
                       // u32 of Feature
  FRAME_OUT,           // a command's standard output
  FRAME_ERR,           // a command's standard error
  FRAME_EXIT,          // i32 exit status (128 + signal), u8 of ExitFlag
  FRAME_OPENED,        // GET: u64 size of the whole file; DIAL: nothing
  FRAME_STATED,        // u8 of FileType, u32 mode, u64 size, i64 mtime in ns
  FRAME_DONE,          // PUT, GET: u64 bytes moved; DIAL, KILL of others: u64 0
  FRAME_FAIL,          // u32 errno, string what was tried
  FRAME_STARTED,       // START: u32 pid of the program, leader of its group
  FRAME_DEAF,          // START: the program reads no more; DATA is thrown away
  FRAME_HOLDS,         // u32 key, u32 pid or 0, u8 of StartFlag, string note
  FRAME_RENEWED = 48,  // id 0: RENEWAL_MARK
};

enum StartFlag {
  START_INPUT = 1,     // standard input is DATA until EOF, else /dev/null
  START_TERMINAL = 2,  // all three are a terminal of its own; implies INPUT
  START_HELD = 4,  // outlives its connection, to be taken up by the next one
};

enum Feature {
  FEATURE_HELD = 1,  // START_HELD, HELD and ATTACH are known
};

// On two pipes that outlive a server (option `renew`), SIGUSR1 from outside the
// sandbox begins anew: the agent sends this mark and HELLO, and drops all that
// arrives before the same mark.
#define RENEWAL_MARK "\xfesbxlua agent: another server now"

enum ExitFlag {
  EXIT_OUT_TRUNCATED = 1,  // standard output went on past the limit
  EXIT_ERR_TRUNCATED = 2,
  EXIT_TIMED_OUT = 4,   // the agent ended it when its time was over
  EXIT_KILLED = 8,      // the agent ended it, for whatever cause
  EXIT_SIGNALLED = 16,  // a signal ended it, exit status - 128
};

enum FileType {
  FILE_OTHER,
  FILE_REGULAR,
  FILE_DIRECTORY,
};

#endif
