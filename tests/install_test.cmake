# cmake --install, then what a user of the package does: find_package, build, run. Called by ctest; see CMakeLists.txt.
cmake_minimum_required(VERSION 3.25)

set(work ${BUILD_DIR}/install_test)
set(prefix ${work}/prefix)
file(REMOVE_RECURSE ${work})
file(MAKE_DIRECTORY ${work})

function(run)
  execute_process(COMMAND ${ARGN} WORKING_DIRECTORY ${work} RESULT_VARIABLE code OUTPUT_VARIABLE output
                  ERROR_VARIABLE output)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "failed (${code}): ${ARGN}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix} --strip)

# A program without debug symbols is small. Sanitizers make it several times larger.
set(limit_mib 15)
file(SIZE ${prefix}/bin/mneme size)
math(EXPR size_kib "${size} / 1024")
message(STATUS "installed program: ${size_kib} KiB")
if(NOT SANITIZE AND size GREATER_EQUAL 15728640)
  message(FATAL_ERROR "the installed program has ${size} bytes, more than ${limit_mib} MiB")
endif()
run(${prefix}/bin/mneme --version)

# What is installed: the public headers, one library, the package.
file(GLOB_RECURSE headers RELATIVE ${prefix}/include ${prefix}/include/*)
file(GLOB public_headers RELATIVE ${SOURCE_DIR}/include ${SOURCE_DIR}/include/mneme/*.h)
if(NOT headers STREQUAL public_headers)
  message(FATAL_ERROR "installed headers are\n${headers}\nand not\n${public_headers}")
endif()
file(GLOB_RECURSE libraries RELATIVE ${prefix} ${prefix}/*/libmneme*)
list(LENGTH libraries num_libraries)
if(NOT num_libraries EQUAL 1)
  message(FATAL_ERROR "one library is installed, not ${libraries}")
endif()

set(flags "")
if(SANITIZE)
  set(flags "-fsanitize=${SANITIZE}")
endif()
run(${CMAKE_COMMAND} -S ${SOURCE_DIR}/examples -B ${work}/examples -G ${GENERATOR}
    -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_CXX_COMPILER=${CXX_COMPILER} -DCMAKE_CXX_COMPILER_LAUNCHER=${CXX_LAUNCHER}
    -DCMAKE_CXX_FLAGS=${flags} -DCMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${work}/examples)

# A random model and a text of some thousand words run through both.
run(${prefix}/bin/mneme convert --random tiny ${work}/tiny.gguf)
set(text "")
foreach(i RANGE 1 2000)
  string(APPEND text "The cat number ${i} sat on the mat. ")
endforeach()
file(WRITE ${work}/text.txt "${text}")

run(${work}/examples/stream_book ${work}/tiny.gguf ${work}/text.txt memory=16M context=sinks:sinks=4,window=60 temperature=0.5 seed=3)
foreach(word "ledger: " "dropped" "window" "peak")
  if(NOT output MATCHES "${word}")
    message(FATAL_ERROR "stream_book does not say '${word}':\n${output}")
  endif()
endforeach()
run(${work}/examples/sessions ${work}/tiny.gguf ${work}/session.state)
string(REGEX MATCHALL "ok: " promises "${output}")
list(LENGTH promises num_promises)
if(NOT num_promises EQUAL 5)
  message(FATAL_ERROR "sessions kept ${num_promises} of 5 promises:\n${output}")
endif()
