// SHA-1, FIPS 180-4. Broken as a signature, but what RFC 6455 asks for: here it proves only that the
// server has read the key.
#pragma once

#include <string>
#include <string_view>

// The digest of `message`: 20 raw bytes, not hex. (PHP: sha1($s, true))
std::string sha1(std::string_view message);
