//! `tuning/tune` against a host that is a folder: files stand in for sysfs, procfs and /etc, the programs in `tests/tuning/` for
//! sysctl, ethtool and systemctl. They keep what they are told and record each change in `calls`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What stage 20-socket-buffers has to remember of the host below.
const KEPT: &str = "sysctl:net.core.rmem_max\t212992\nsysctl:net.core.wmem_max\t16777216\n";

/// A host of four cores and a card, all untuned.
struct Host {
    root: PathBuf,
}

/// What a run of `tune` came to.
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Host {
    /// A host with nothing but a core: no card, no sysfs.
    fn bare() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("distributary-tuning-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let host = Host { root: std::env::temp_dir().join(name) };
        for folder in ["variables", "units", "card"] {
            fs::create_dir_all(host.root.join(folder)).expect("a folder for the host");
        }
        host
    }

    fn new() -> Self {
        let host = Host::bare();
        let cpu = "sys/devices/system/cpu";
        host.write(&format!("{cpu}/online"), "0-3\n");
        host.write(&format!("{cpu}/isolated"), "\n");
        host.write(&format!("{cpu}/nohz_full"), "(null)\n");
        for core in 0..4 {
            host.write(&format!("{cpu}/cpu{core}/cpufreq/scaling_governor"), "powersave\n");
            for (state, latency) in [0, 2, 133].iter().enumerate() {
                host.write(&format!("{cpu}/cpu{core}/cpuidle/state{state}/latency"), &format!("{latency}\n"));
                host.write(&format!("{cpu}/cpu{core}/cpuidle/state{state}/disable"), "0\n");
            }
        }
        host.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
        host.write("sys/kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise madvise [never]\n");
        for (name, value) in [
            ("net.core.rmem_max", "212992"),
            ("net.core.wmem_max", "16777216"),
            ("net.core.busy_read", "0"),
            ("net.core.busy_poll", "0"),
            ("vm.nr_hugepages", "0"),
        ] {
            host.write(&format!("variables/{name}"), &format!("{value}\n"));
        }
        host.write(
            "proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nwlan0\t00000000\t010200C0\t0003\t0\t0\t600\t00000000\n\
             eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\n",
        );
        host.write("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000\n");
        // Input and output interrupts in turn, as virtio has them.
        let mut interrupts =
            String::from("           CPU0       CPU1       CPU2       CPU3\n 29: 1 0 0 0 PCI-MSI 0-edge eth0-config\n");
        host.write("sys/class/net/eth0/device/msi_irqs/29", "msix\n");
        host.write("proc/irq/29/smp_affinity_list", "0-3\n");
        for queue in 0..4 {
            for (side, name) in ["input", "output"].iter().enumerate() {
                let number = 30 + 2 * queue + side;
                interrupts += &format!(" {number}: 1 0 0 0 PCI-MSI {number}-edge eth0-{name}.{queue}\n");
                host.write(&format!("sys/class/net/eth0/device/msi_irqs/{number}"), "msix\n");
                host.write(&format!("proc/irq/{number}/smp_affinity_list"), "0-3\n");
            }
        }
        host.write("proc/interrupts", &interrupts);
        for (name, value) in [
            ("combined", "8"),
            ("rss", "weight 12 4"),
            ("udp4", "sd"),
            ("udp6", "sdfn"),
            ("rx", "512"),
            ("adaptive-rx", "off"),
            ("rx-usecs", "50"),
            ("tx-udp-segmentation", "off"),
            ("generic-segmentation-offload", "on"),
            ("generic-receive-offload", "off"),
            ("scatter-gather", "on [fixed]"),
        ] {
            host.write(&format!("card/{name}"), &format!("{value}\n"));
        }
        host.write("units/irqbalance.service.active", "");
        host.write("etc/security/limits.d/other.conf", "* - core 0\n");
        host
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("a folder above")).expect("a folder of the host");
        fs::write(path, text).expect("a file of the host");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}")).trim_end().to_owned()
    }

    fn state(&self, stage: &str) -> PathBuf {
        self.root.join("state").join(stage)
    }

    fn tune(&self, arguments: &str) -> Run {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("bash")
            .arg(repository().join("tuning/tune"))
            .args(arguments.split_whitespace())
            .env("PATH", format!("{}:{path}", repository().join("tests/tuning").display()))
            .env("DISTRIBUTARY_TUNING_ROOT", &self.root)
            .env("DISTRIBUTARY_TUNING_STATE", self.root.join("state"))
            .output()
            .expect("bash runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Every file of the host with its text, but for the record of calls and tune's own state.
    fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        fn walk(folder: &Path, into: &mut BTreeMap<PathBuf, String>) {
            for entry in fs::read_dir(folder).expect("a folder of the host").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    walk(&path, into);
                } else {
                    let text = fs::read_to_string(&path).expect("a file of the host");
                    into.insert(path, text);
                }
            }
        }
        let mut files = BTreeMap::new();
        walk(&self.root, &mut files);
        files.retain(|path, _| *path != self.root.join("calls") && !path.starts_with(self.root.join("state")));
        files
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.root.join("calls")).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Left over in the system's folder for temporary files at worst.
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Run {
    #[track_caller]
    fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }

    /// The lines about a stage.
    fn about(&self, stage: &str) -> String {
        self.out.lines().filter(|line| line.contains(stage)).collect::<Vec<_>>().join("\n")
    }
}

fn stages() -> Vec<String> {
    let entries = fs::read_dir(repository().join("tuning/stages")).expect("stages").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().trim_end_matches(".sh").to_owned()).collect();
    names.sort();
    names
}

#[test]
fn check_tells_what_is_wrong_and_changes_nothing() {
    let host = Host::new();
    let before = host.snapshot();
    let run = host.tune("check").ended(1);
    for (stage, verdict, detail) in [
        ("10-nic-queues", "degraded", "channels eth0/combined is 8, wanted 3; rss eth0 is weight 12 4, wanted equal 3"),
        ("11-nic-interrupts", "degraded", "irq eth0/0 is 0-3, wanted 1"),
        ("12-receive-steering", "degraded", "rps_cpus is 0, wanted e"),
        ("13-nic-coalescing", "degraded", "adaptive-rx is off, wanted on"),
        ("14-nic-offloads", "degraded", "tx-udp-segmentation is off, wanted on"),
        ("20-socket-buffers", "degraded", "net.core.rmem_max is 212992, wanted at least 8388608 —"),
        ("21-busy-poll", "ok", "net.core.busy_read is 0"),
        ("30-governor", "degraded", "cpu1/cpufreq/scaling_governor is powersave, wanted performance"),
        ("31-c-states", "degraded", "cpu1/cpuidle/state2/disable is 0, wanted 1"),
        ("50-huge-pages", "degraded", "enabled is never, wanted madvise"),
        ("60-limits", "missing", "90-distributary.conf is absent"),
        ("70-systemd-unit", "missing", "distributary.service is absent"),
        ("80-at-boot", "missing", "distributary-tuning.service is absent"),
    ] {
        let line = run.about(stage);
        assert!(line.starts_with(verdict) && line.contains(detail) && line.contains(" — "), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    assert_eq!(run.out.lines().count(), 13, "{}", run.out);
    assert_eq!((host.snapshot(), host.calls()), (before, String::new()));
}

#[test]
fn apply_without_yes_only_tells() {
    let host = Host::new();
    let before = host.snapshot();
    for profile in ["throughput", "latency"] {
        let run = host.tune(&format!("apply --profile {profile}")).ended(0);
        assert!(run.about("20-socket-buffers").contains("would set net.core.rmem_max: 212992 → 8388608"), "{}", run.out);
        assert!(run.out.contains("nothing was changed"), "{}", run.out);
    }
    assert_eq!((host.snapshot(), host.calls()), (before, String::new()));
    assert!(!host.root.join("state").exists());
}

#[test]
fn apply_sets_keeps_what_was_and_is_idempotent() {
    let host = Host::new();
    host.tune("apply --yes").ended(0);
    assert_eq!(host.read("variables/net.core.rmem_max"), "8388608");
    assert_eq!(host.read("variables/net.core.wmem_max"), "16777216", "more than is wanted stays");
    assert_eq!(host.read("card/combined"), "3");
    assert_eq!(host.read("card/rss"), "default", "which spreads over the 3 alike");
    assert_eq!(host.read("card/udp4"), "sdfn");
    assert_eq!(host.read("card/rx"), "2048", "no deeper than the card can");
    assert_eq!(host.read("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor"), "performance");
    assert_eq!(host.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"), "powersave", "core 0 is no worker's");
    assert_eq!(host.read("sys/class/net/eth0/queues/rx-0/rps_cpus"), "e");
    let affinities: Vec<String> = (30..38).map(|number| host.read(&format!("proc/irq/{number}/smp_affinity_list"))).collect();
    assert_eq!(affinities, ["1", "1", "2", "2", "3", "3", "1", "1"], "inputs and outputs are shared out each for itself");
    assert!(!host.root.join("units/irqbalance.service.active").exists());
    assert!(host.root.join("units/distributary-tuning.service.enabled").exists());
    assert!(host.read("etc/security/limits.d/90-distributary.conf").contains("* - nofile 65536\n* - memlock unlimited"));
    let shipped = fs::read_to_string(repository().join("tuning/distributary.service")).expect("the unit");
    assert_eq!(host.read("etc/systemd/system/distributary.service"), shipped.trim_end());
    assert_eq!(fs::read_to_string(host.state("20-socket-buffers")).expect("kept"), KEPT);

    host.tune("check").ended(0);
    let (before, calls) = (host.snapshot(), host.calls());
    let run = host.tune("apply --yes").ended(0);
    for stage in stages().iter().filter(|stage| !stage.starts_with('4')) {
        assert!(run.about(stage).contains("nothing to do"), "{}", run.out);
    }
    assert_eq!((host.snapshot(), host.calls()), (before, calls));

    // As after a reboot: the values are gone, what was kept is not overwritten by what is found.
    host.write("variables/net.core.rmem_max", "300000\n");
    host.tune("apply --yes").ended(0);
    assert_eq!(host.read("variables/net.core.rmem_max"), "8388608");
    assert_eq!(fs::read_to_string(host.state("20-socket-buffers")).expect("kept"), KEPT);
}

#[test]
fn undo_puts_back_exactly_what_was() {
    for profile in ["throughput", "latency"] {
        let host = Host::new();
        // Documents come back byte for byte.
        host.write("etc/security/limits.d/90-distributary.conf", "* - nofile 1\t\\n # no line end");
        let before = values(&host);
        host.tune(&format!("apply --yes --profile {profile}")).ended(0);
        assert_ne!(values(&host), before);

        let applied = host.snapshot();
        let run = host.tune("undo").ended(0);
        assert!(run.out.contains("would put back net.core.rmem_max: 8388608 → 212992"), "{}", run.out);
        assert_eq!(host.snapshot(), applied);

        let run = host.tune("undo socket-buffers --yes").ended(0);
        assert!(run.out.contains("put back net.core.rmem_max: 8388608 → 212992"), "{}", run.out);
        assert_eq!(host.read("card/combined"), if profile == "latency" { "1" } else { "3" }, "only what was named");

        host.tune("undo --yes").ended(0);
        assert_eq!(values(&host), before);
        assert_eq!(fs::read_dir(host.root.join("state")).expect("state").count(), 0);
        assert!(host.tune("undo governor --yes").ended(0).out.contains("nothing to undo"));
    }
}

/// The host's files, with files of the kernel read as the kernel means them: the current choice is the one in brackets, a mask has no
/// zeros in front. A plain file keeps what was written last.
fn values(host: &Host) -> BTreeMap<PathBuf, String> {
    let value = |(path, text): (PathBuf, String)| {
        let choice = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(choice, _)| format!("{choice}\n"));
        let text = match path.to_string_lossy() {
            name if name.contains("hugepage") => choice.unwrap_or(text),
            name if name.contains("rps_cpus") => format!("{:x}", u64::from_str_radix(text.trim(), 16).expect("a mask")),
            _ => text,
        };
        (path, text)
    };
    host.snapshot().into_iter().map(value).collect()
}

#[test]
fn cores_of_the_kernel_command_line_are_told_not_set() {
    let host = Host::new();
    let before = host.snapshot();
    let run = host.tune("apply isolated-cores 41-tickless-cores --profile latency --workers-cores 2,3 --yes").ended(0);
    assert!(
        run.about("40-isolated-cores").contains("add isolcpus=managed_irq,domain,2,3 to the kernel command line"),
        "{}",
        run.out
    );
    assert!(run.about("41-tickless-cores").contains("add nohz_full=2,3 rcu_nocbs=2,3 to"), "{}", run.out);
    assert_eq!(host.snapshot(), before);

    let check = "check isolated-cores --profile=latency --workers-cores=2-3";
    assert!(host.tune(check).ended(1).out.starts_with("missing"));
    host.write("sys/devices/system/cpu/isolated", "1-3\n");
    assert!(host.tune(check).ended(0).out.starts_with("ok"));
}

#[test]
fn a_stage_that_fails_is_named_and_does_not_stop_the_others() {
    let host = Host::new();
    host.write("refused", "net.core.rmem_max\n");
    let run = host.tune("apply --yes").ended(1);
    assert!(run.about("20-socket-buffers").contains("failed: net.core.rmem_max: 212992 → 8388608: sysctl: permission denied"));
    assert_eq!(run.err.trim(), "failed: 20-socket-buffers");
    assert_eq!(host.read("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor"), "performance");

    // An undo that fails keeps what it could not put back, and a later one does it.
    host.write("refused", "");
    host.tune("apply --yes").ended(0);
    host.write("refused", "net.core.rmem_max\n");
    let run = host.tune("undo --yes").ended(1);
    assert_eq!(run.err.trim(), "failed: 20-socket-buffers");
    assert_eq!(host.read("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor"), "powersave");
    host.write("refused", "");
    host.tune("undo --yes").ended(0);
    assert_eq!(host.read("variables/net.core.rmem_max"), "212992");
}

#[test]
fn an_rss_table_that_could_not_be_put_back_is_left_alone() {
    let host = Host::new();
    host.write("card/rss", "irregular\n");
    let run = host.tune("apply nic-queues --yes").ended(1);
    assert!(run.out.contains("irregular and could not be put back"), "{}", run.out);
    assert_eq!((host.read("card/rss"), host.read("card/combined")), ("irregular".into(), "8".into()));
    assert_eq!(host.read("card/udp4"), "sdfn", "the rest of the stage is done");
}

#[test]
fn mistakes_in_the_command_line_end_with_2_and_say_what_there_is() {
    let host = Host::new();
    let before = host.snapshot();
    for (arguments, message) in [
        ("", "list, check, apply or undo"),
        ("frobnicate", "unknown command frobnicate"),
        ("apply socket-bufers --yes", "unknown stage socket-bufers; there are: 10-nic-queues"),
        ("apply --yess", "unknown option --yess"),
        ("check --profile", "--profile needs a value"),
        ("check --profile fastest", "unknown profile fastest; there are: latency"),
        ("check --profile ../stages", "unknown profile ../stages"),
        ("check isolated-cores", "stage 40-isolated-cores is not in profile throughput"),
        ("check --interface eth7", "there is no network interface eth7"),
        ("check --workers-cores 3-1", "--workers-cores 3-1 is no list of cores"),
        ("check --workers-cores 1;2", "is no list of cores"),
        ("check --workers-cores 1-9", "core 4 of --workers-cores is not online: 0-3 are"),
    ] {
        let run = host.tune(arguments).ended(2);
        assert!(run.err.starts_with("tune: ") && run.err.contains(message), "{arguments}: {}", run.err);
        assert!(run.out.is_empty(), "{}", run.out);
    }
    assert_eq!(host.snapshot(), before);
}

#[test]
fn a_host_that_lacks_it_all_is_told_so() {
    let host = Host::bare();
    let run = host.tune("check").ended(1);
    for stage in stages().iter().filter(|stage| !stage.starts_with(['4', '7', '8']) && *stage != "11-nic-interrupts") {
        assert!(run.about(stage).starts_with("not applicable"), "{}", run.out);
    }
    assert_eq!(run.err, "");
    let run = host.tune("apply --yes 10-nic-queues 20-socket-buffers 30-governor 60-limits").ended(0);
    assert_eq!(run.err, "");
}

#[test]
fn a_boot_applies_again_what_was_applied_and_what_it_has_undone() {
    let host = Host::new();
    host.tune("apply socket-buffers limits at-boot --workers-cores 1-2 --yes").ended(0);
    let unit = host.read("etc/systemd/system/distributary-tuning.service");
    assert!(unit.contains("tuning/tune\" apply --at-boot --yes --profile throughput --workers-cores 1-2\n"), "{unit}");

    host.write("variables/net.core.rmem_max", "212992\n");
    host.write("etc/security/limits.d/90-distributary.conf", "# the operator's\n");
    let run = host.tune("apply --at-boot --yes --profile throughput --workers-cores 1-2").ended(0);
    assert_eq!(run.out.trim_end(), "20-socket-buffers     set net.core.rmem_max: 212992 → 8388608");
    assert_eq!(host.read("etc/security/limits.d/90-distributary.conf"), "# the operator's");
}

#[test]
fn every_stage_is_explained_and_in_a_profile() {
    let run = Host::new().tune("list").ended(0);
    let text = fs::read_to_string(repository().join("tuning/README.md")).expect("the README");
    for stage in stages() {
        let explained = run.out.lines().skip_while(|line| !line.starts_with(&format!("{stage} ("))).nth(1).unwrap_or_default();
        assert!(explained.len() > 60, "{stage}: {explained}");
        assert!(!run.about(&stage).contains("()"), "{stage} is in no profile");
        assert!(text.contains(&format!("`{stage}`")), "{stage} is not in tuning/README.md");
    }
    for profile in ["throughput", "latency"] {
        let text = fs::read_to_string(repository().join("tuning/profiles").join(profile)).expect("a profile");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split_whitespace().next().unwrap_or_default();
            assert!(stages().iter().any(|stage| stage == name), "profile {profile} has {name}");
        }
    }
}
