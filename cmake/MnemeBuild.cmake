# Targets, flags and the one-way layering of src/.
include(CheckCXXCompilerFlag)
include(GNUInstallDirs)

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(HWY REQUIRED IMPORTED_TARGET GLOBAL libhwy)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET GLOBAL libxxhash)

find_program(MNEME_CCACHE ccache)
if(MNEME_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${MNEME_CCACHE})
  # A precompiled header changes its time stamp in every clean build; its content does not.
  set(ENV{CCACHE_SLOPPINESS} "pch_defines,time_macros")
endif()

add_library(mneme_flags INTERFACE)
target_compile_features(mneme_flags INTERFACE cxx_std_20)
target_compile_options(mneme_flags INTERFACE -Wall -Wextra -Wno-psabi -fno-math-errno)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # Highway's AVX-512 vector types in templates. GCC 12 sees overlaps in std::string's operator+ that are not there (GCC bug 105329).
  target_compile_options(mneme_flags INTERFACE -Wno-ignored-attributes -Wno-restrict)
endif()
if(MNEME_SANITIZE)
  # Without no-recover the undefined-behaviour sanitizer prints and goes on, and a test passes all the same.
  target_compile_options(mneme_flags INTERFACE -fsanitize=${MNEME_SANITIZE} -fno-sanitize-recover=all
                         -fno-omit-frame-pointer -g)
  target_link_options(mneme_flags INTERFACE -fsanitize=${MNEME_SANITIZE})
endif()

if(MNEME_TESTS)
  enable_testing()
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()

# mneme_layer(NAME USES layer... LINK target...)
# Makes mneme_NAME from every *.cc in the folder and below it that is not a test (`program/` and `tables/` hold programs
# of their own), and one test program mneme_NAME_test from *_test.cc. Tests link the twins of src/reference too.
# PLAIN: nothing in it loops over many numbers, so it is compiled a third faster with -O1, as tests are.
# USES names the layers above; nothing else of src/ can be included because include paths come through the link.
function(mneme_layer NAME)
  cmake_parse_arguments(ARG "PLAIN" "" "USES;LINK;LINK_PRIVATE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  list(FILTER sources EXCLUDE REGEX "/(program|tables)/[^/]*$")
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  add_library(mneme_${NAME} STATIC ${sources})
  add_library(mneme::${NAME} ALIAS mneme_${NAME})
  set_target_properties(mneme_${NAME} PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  target_include_directories(mneme_${NAME} PUBLIC ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(mneme_${NAME} PRIVATE mneme_flags)
  foreach(layer ${ARG_USES})
    target_link_libraries(mneme_${NAME} PUBLIC mneme_${layer})
  endforeach()
  target_link_libraries(mneme_${NAME} PUBLIC ${ARG_LINK} PRIVATE ${ARG_LINK_PRIVATE})
  if(ARG_PLAIN)
    target_compile_options(mneme_${NAME} PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
  if(MNEME_TESTS AND tests)
    add_executable(mneme_${NAME}_test ${tests})
    target_compile_options(mneme_${NAME}_test PRIVATE $<$<CONFIG:Release>:-O1>)
    target_link_libraries(mneme_${NAME}_test PRIVATE mneme_${NAME} mneme_reference mneme_flags GTest::gtest GTest::gtest_main)
    target_compile_definitions(mneme_${NAME}_test PRIVATE
      MNEME_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
    gtest_discover_tests(mneme_${NAME}_test TEST_PREFIX "${NAME}." DISCOVERY_TIMEOUT 60
                         PROPERTIES TIMEOUT 600)
  endif()
endfunction()
