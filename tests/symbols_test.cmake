# What the shared library shows: the classes and functions of the public headers, and nothing behind them.
execute_process(COMMAND ${NM} --dynamic --defined-only --demangle ${LIBRARY} OUTPUT_VARIABLE symbols RESULT_VARIABLE code)
if(NOT code EQUAL 0)
  message(FATAL_ERROR "${NM} does not read ${LIBRARY}")
endif()
foreach(name "mneme::Session::Feed(" "mneme::Model::Load(" "mneme::Engine::Engine(" "mneme::Scheduler::Step("
             "mneme::PlanRun(" "typeinfo for mneme::Error" "mneme::ConvertModel(mneme::Engine" "mneme::ReportJson")
  string(FIND "${symbols}" "${name}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "${name} is public, and the library does not show it")
  endif()
endforeach()
foreach(name "mneme::LoadedModel::" "mneme::Runner::" "mneme::CpuDevice::" "mneme::GgufFile::" "mneme::BlockPool::"
             "mneme::Session::Impl::" "mneme::Budget::" "mneme::MakeContext(" "mneme::OpenTensorSource(")
  string(FIND "${symbols}" " ${name}" at)
  if(NOT at EQUAL -1)
    message(FATAL_ERROR "${name} is the library's own, and it shows it")
  endif()
endforeach()
