// The body of a request on its way from the socket to a reader.

#include "server_upload.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <uv.h>

static const size_t DEFAULT_WINDOW = 65536;
static const size_t LEAST_ROOM = 512;  // so that small arrivals share a piece
static const size_t FORM_BUFFER = 16384;    // also the longest header of a part
static const size_t LONGEST_BOUNDARY = 70;  // RFC 2046, 5.1.1
static const size_t LONGEST_NAME = 4096;    // of a part or a file

void upload_open(Upload *upload) {
  *upload = (Upload){.window = DEFAULT_WINDOW};
}

void upload_want_piece(Upload *upload) {
  upload->window = DEFAULT_WINDOW;
  upload->whole = false;
}

void upload_want_whole(Upload *upload, size_t max) {
  upload->window = max + 1;  // the one too many is how excess shows
  upload->whole = true;
}

static Piece *detach(Upload *upload) {
  Piece *piece = upload->first;
  if (piece == NULL) return NULL;
  upload->first = piece->next;
  if (upload->first == NULL) upload->last = NULL;
  upload->queued -= piece->length + piece->overhead;
  return piece;
}

void upload_shift(Upload *upload) {
  upload->taken = true;
  free(detach(upload));
}

void upload_drop_pieces(Upload *upload) {
  while (upload->first != NULL)
    upload_shift(upload);
}

void upload_end_form(Upload *upload) {
  if (upload->form == NULL) return;
  // Destroying may still hand over the last value, so the field stays set.
  if (MHD_destroy_post_processor(upload->form) != MHD_YES)
    upload->malformed = true;
  upload->form = NULL;
}

// A new last piece with room for `size` bytes. Returns NULL without memory.
static Piece *append_piece(Upload *upload, size_t size, const char *name,
                           const char *filename) {
  size_t room = size < LEAST_ROOM ? LEAST_ROOM : size;
  size_t name_size = name == NULL ? 0 : strlen(name) + 1;
  size_t filename_size = filename == NULL ? 0 : strlen(filename) + 1;
  Piece *piece = malloc(sizeof(*piece) + room + name_size + filename_size);
  if (piece == NULL) return NULL;

  char *names = piece->bytes + room;
  *piece = (Piece){.room = room, .part = upload->part};
  // A stranger's form may be nothing but empty parts.
  if (upload->part > 0)
    piece->overhead = sizeof(*piece) + room - size + name_size + filename_size;
  upload->queued += piece->overhead;
  if (name != NULL) piece->name = memcpy(names, name, name_size);
  if (filename != NULL) {
    piece->filename = memcpy(names + name_size, filename, filename_size);
  }
  if (upload->last != NULL)
    upload->last->next = piece;
  else
    upload->first = piece;
  upload->last = piece;
  return piece;
}

static bool push(Upload *upload, const char *data, size_t size,
                 const char *name, const char *filename) {
  Piece *last = upload->last;
  bool fits = last != NULL && last->part == upload->part &&
              size <= last->room - last->length;
  if (!fits) last = append_piece(upload, size, name, filename);
  if (last == NULL) return false;
  if (size > 0) memcpy(last->bytes + last->length, data, size);
  last->length += size;
  upload->queued += size;
  return true;
}

// Called by the form's parser for every stretch of a part, the first of which
// may be empty: a part begins at offset 0 unless the last one is still empty
// and looks the same.
static enum MHD_Result on_form_data(void *cls, enum MHD_ValueKind kind,
                                    const char *name, const char *filename,
                                    const char *type, const char *encoding,
                                    const char *data, uint64_t offset,
                                    size_t size) {
  Upload *upload = cls;
  if (name == NULL) name = "";
  if (strlen(name) > LONGEST_NAME) return MHD_NO;
  if (filename != NULL && strlen(filename) > LONGEST_NAME) return MHD_NO;
  const Piece *last = upload->last;
  bool goes_on = offset > 0;
  if (offset == 0 && upload->part_bytes == 0 && last != NULL) {
    bool same_file =
        (last->filename == NULL) == (filename == NULL) &&
        (filename == NULL || strcmp(last->filename, filename) == 0);
    goes_on = same_file && strcmp(last->name, name) == 0;
  }
  if (!goes_on) {
    upload->part++;
    upload->part_bytes = 0;
  }
  upload->part_bytes += size;
  return push(upload, data, size, name, filename) ? MHD_YES : MHD_NO;
}

// The parser trusts the boundary to be sane: it computes with the length of a
// lone quotation mark.
static bool boundary_is_sane(const char *type) {
  const char *boundary = strstr(type, "boundary=");
  if (boundary == NULL) return false;
  boundary += strlen("boundary=");
  size_t length = strlen(boundary);
  if (length > 0 && boundary[0] == '"') {
    if (length < 3 || boundary[length - 1] != '"') return false;
    length -= 2;
  }
  return length >= 1 && length <= LONGEST_BOUNDARY;
}

static void parse_form(Upload *upload, const char *data, size_t size) {
  if (upload->malformed) return;
  if (MHD_post_process(upload->form, data, size) == MHD_YES) return;
  upload->malformed = true;
}

// Lets the parser have what arrived before the reader said it is a form.
static void parse_again(Upload *upload) {
  Piece *raw = upload->first;
  upload->first = upload->last = NULL;
  upload->queued = 0;
  while (raw != NULL) {
    Piece *next = raw->next;
    parse_form(upload, raw->bytes, raw->length);
    free(raw);
    raw = next;
  }
  if (upload->ended) upload_end_form(upload);
}

int upload_start_form(Upload *upload, struct MHD_Connection *connection) {
  static const char multipart[] = "multipart/form-data";
  if (upload->taken || upload->form != NULL) return UV_EALREADY;
  const char *type =
      MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Type");
  if (type == NULL) return UV_EINVAL;
  if (strncasecmp(type, multipart, strlen(multipart)) != 0) return UV_EINVAL;
  if (!boundary_is_sane(type)) return UV_EINVAL;
  upload->form =
      MHD_create_post_processor(connection, FORM_BUFFER, on_form_data, upload);
  if (upload->form == NULL) return UV_EINVAL;  // a boundary it refuses
  parse_again(upload);
  return 0;
}

ssize_t upload_feed(Upload *upload, const char *data, size_t size) {
  if (upload->malformed) return (ssize_t)size;
  if (upload_full(upload)) return 0;
  size_t room = upload->window - upload->queued;
  if (size > room) size = room;
  if (upload->form == NULL) {
    return push(upload, data, size, NULL, NULL) ? (ssize_t)size : -1;
  }
  parse_form(upload, data, size);
  return (ssize_t)size;
}
