// SHA-1, FIPS 180-4. It is broken as a signature, but RFC 6455 asks for it: here it proves only
// that the server has read the key.
#pragma once

#include <string>
#include <string_view>

// The digest of `message`: 20 raw bytes, not hex. (PHP: sha1($s, true))
std::string sha1(std::string_view message);
