# cmake --install: the program, the library with its headers, and a package for find_package(mneme).
include(CMakePackageConfigHelpers)

install(TARGETS mneme_library EXPORT mnemeTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/mneme DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(EXPORT mnemeTargets NAMESPACE mneme:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/mneme)
configure_package_config_file(cmake/mnemeConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/mnemeConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/mneme)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/mnemeConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mnemeConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/mnemeConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/mneme)
