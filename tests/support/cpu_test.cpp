#include "support/cpu.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

namespace octavo {
namespace {

TEST(Cpu, CountFollowsTheAffinityOfTheProcess) {
  int in_thread = 0;
  // Affinity is a thread's; a new one leaves the test program's own alone.
  std::thread([&] {
    cpu_set_t all, one;
    ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu)
      if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    in_thread = available_cpus();
  }).join();
  EXPECT_EQ(in_thread, 1);
}

class CgroupQuota : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(root_); }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = root_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text << '\n';
  }
  double quota(const std::string& membership) const {
    write("membership", membership);
    return cgroup_quota(root_ / "membership", root_);
  }

 private:
  std::filesystem::path root_ = std::filesystem::path(::testing::TempDir()) /
                                ::testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(CgroupQuota, IsZeroWithoutOne) {
  EXPECT_EQ(quota("0::/"), 0);
  write("a/cpu.max", "max 100000");
  EXPECT_EQ(quota("0::/a"), 0);
}

TEST_F(CgroupQuota, VersionTwoTakesTheSmallestOnTheWayToTheRoot) {
  write("a/cpu.max", "150000 100000");
  write("a/b/cpu.max", "400000 100000");
  EXPECT_EQ(quota("0::/a/b"), 1.5);
  write("cpu.max", "50000 100000");
  EXPECT_EQ(quota("0::/a/b"), 0.5);
}

TEST_F(CgroupQuota, InAContainerTheNamedFolderIsMissingAndTheRootCounts) {
  write("cpu.max", "200000 100000");
  EXPECT_EQ(quota("0::/not/mounted"), 2);
}

TEST_F(CgroupQuota, VersionOneReadsTheCpuController) {
  write("cpu,cpuacct/a/cpu.cfs_quota_us", "250000");
  write("cpu,cpuacct/a/cpu.cfs_period_us", "100000");
  write("cpu,cpuacct/cpu.cfs_quota_us", "-1");
  EXPECT_EQ(quota("3:memory:/a\n2:cpu,cpuacct:/a"), 2.5);
}

}  // namespace
}  // namespace octavo
