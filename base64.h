// Base64, RFC 4648 section 4.
#pragma once

#include <optional>
#include <string>
#include <string_view>

// The base64 text of any bytes, with padding and without line breaks. (PHP: base64_encode)
std::string base64_encode(std::string_view bytes);

// The bytes that `text` stands for; nothing when it is not exactly what base64_encode() would have
// written: a foreign character, white space, missing padding, or bits left over at the end.
std::optional<std::string> base64_decode(std::string_view text);
