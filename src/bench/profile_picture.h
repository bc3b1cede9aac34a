// Where the time of a forward call goes, as a picture: a bar for each operation.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "bench/model.h"
#include "bench/profile.h"

namespace mneme {

struct ProfilePanel {
  std::string name;              // "one token", "512 tokens"
  std::vector<ProfileRow> rows;  // as ProfileModel returns them
};

// One SVG file with a panel below the other. Of each bar that part is solid which reading the operation's
// bytes and its multiplications take at the machine's limits; without a floor bars are solid.
std::string ProfilePicture(const std::string& title, std::span<const ProfilePanel> panels,
                           const MachineFloor* floor);

}  // namespace mneme
