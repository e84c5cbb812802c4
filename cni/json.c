/*
 * JSON, enough to walk it correctly without a heap (RFC 8259). Included by shim.c, its only user. Every text ends with a
 * NUL, which no token contains, so nothing here needs a length.
 */
#include <string.h>

enum { DEPTH_MAX = 100 };

static const char *blank(const char *p)
{
    return p + strspn(p, " \t\r\n");
}

static int hex(char digit)
{
    return digit >= '0' && digit <= '9' ? digit - '0' : (digit | 32) >= 'a' && (digit | 32) <= 'f' ? (digit | 32) - 'a' + 10 : -1;
}

/* The length of the UTF-8 sequence at p (RFC 3629), 0 if it is none. */
static int utf8_length(const unsigned char *p)
{
    int length = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    for (int i = 1; i < length; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    int bad = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
              (p[0] == 0xf4 && p[1] > 0x8f);
    return bad ? 0 : length;
}

/*
 * Past the string whose opening quote is at p, or NULL if it is none. With `text`, decodes it there (NUL-terminated, at most
 * `room` - 1 bytes) and returns NULL too if it does not fit or holds a control character or a surrogate.
 */
static const char *string_end(const char *p, char *text, size_t room)
{
    for (p++; *p != '"';) {
        unsigned long c = 0;
        int length = utf8_length((const unsigned char *)p);
        char sequence[4];
        if (!length || (unsigned char)*p < 0x20) return NULL;
        memcpy(sequence, p, (size_t)length);
        p += length;
        if (*sequence == '\\' && *p == 'u') {
            for (int i = 1; i <= 4; i++) {
                if (hex(p[i]) < 0) return NULL;
                c = c << 4 | (unsigned)hex(p[i]);
            }
            p += 5;
            length = c < 0x80 ? 1 : c < 0x800 ? 2 : 3;
            static const unsigned char lead[] = {0, 0, 0xc0, 0xe0};
            for (int i = length - 1; i > 0; i--, c >>= 6) sequence[i] = (char)(0x80 | (c & 0x3f));
            sequence[0] = (char)(lead[length] | c);
            if (text && !utf8_length((unsigned char *)sequence)) return NULL;
        } else if (*sequence == '\\') {
            const char *escape = *p ? strchr("\"\"\\\\//b\bf\fn\nr\rt\t", *p) : NULL;
            if (!escape || (unsigned char)*p < 0x20) return NULL;
            sequence[0] = escape[1], p++;
        }
        if (!text) continue;
        if ((unsigned char)sequence[0] < 0x20 || sequence[0] == 0x7f || room <= (size_t)length) return NULL;
        memcpy(text, sequence, (size_t)length);
        text += length, room -= (size_t)length;
    }
    if (text) *text = 0;
    return p + 1;
}

static const char *number_end(const char *p)
{
    static const char digits[] = "0123456789";
    size_t n = strspn(p += *p == '-', digits);
    if (!n || (*p == '0' && n > 1)) return NULL;
    p += n;
    if (*p == '.') {
        if (!(n = strspn(p + 1, digits))) return NULL;
        p += 1 + n;
    }
    if ((*p | 32) == 'e') {
        p += 1 + (p[1] == '-' || p[1] == '+');
        if (!(n = strspn(p, digits))) return NULL;
        p += n;
    }
    return p;
}

/* Past the value at p, or NULL if it is not JSON or nests deeper than `depth`. */
static const char *value_end(const char *p, int depth)
{
    if (*p == '"') return string_end(p, NULL, 0);
    if (!strncmp(p, "true", 4) || !strncmp(p, "null", 4)) return p + 4;
    if (!strncmp(p, "false", 5)) return p + 5;
    if (*p != '{' && *p != '[') return number_end(p);
    char close = *p == '{' ? '}' : ']';
    if (!depth) return NULL;
    p = blank(p + 1);
    if (*p == close) return p + 1;
    for (;; p = blank(p + 1)) {
        if (close == '}') {
            if (*p != '"' || !(p = string_end(p, NULL, 0)) || *(p = blank(p)) != ':') return NULL;
            p = blank(p + 1);
        }
        if (!(p = value_end(p, depth - 1))) return NULL;
        p = blank(p);
        if (*p == close) return p + 1;
        if (*p != ',') return NULL;
    }
}

/* The value of the last member `name` of the object at p, NULL if none; what follows broken JSON is not looked at. */
static const char *member(const char *p, const char *name)
{
    const char *found = NULL;
    char key[32];
    if (!p || *(p = blank(p)) != '{') return NULL;
    for (p = blank(p + 1); *p == '"'; p = blank(p + 1)) {
        int same = string_end(p, key, sizeof key) && !strcmp(key, name);
        if (!(p = string_end(p, NULL, 0)) || *(p = blank(p)) != ':') break;
        p = blank(p + 1);
        if (same) found = p;
        if (!(p = value_end(p, DEPTH_MAX)) || *(p = blank(p)) != ',') break;
    }
    return found;
}
