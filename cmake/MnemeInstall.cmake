# cmake --install: the program, the libraries with their headers, and a package for find_package(mneme).
include(CMakePackageConfigHelpers)

get_property(mneme_layers GLOBAL PROPERTY MNEME_LAYERS)
install(TARGETS ${mneme_layers} EXPORT mnemeTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY src/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/mneme
        FILES_MATCHING PATTERN "*.h" PATTERN "*-inl.h" EXCLUDE PATTERN "*test*.h" EXCLUDE PATTERN "cli" EXCLUDE
        PATTERN "tables" EXCLUDE)
install(EXPORT mnemeTargets NAMESPACE mneme:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/mneme)
configure_package_config_file(cmake/mnemeConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/mnemeConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/mneme)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/mnemeConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mnemeConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/mnemeConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/mneme)
