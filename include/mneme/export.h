// What a shared library of mneme shows: everything that is marked, and nothing else.
#pragma once

#define MNEME_API [[gnu::visibility("default")]]
// Nested in what is marked, and still the library's own.
#define MNEME_LOCAL [[gnu::visibility("hidden")]]
