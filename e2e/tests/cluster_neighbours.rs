//! Pods beside what NVIDIA and others bring to a node: device plugins, the container toolkit's runtime, GPU Feature Discovery.
//! It must never let a neighbour's file pass for ours: each program says which libcuda it has in memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::fs;
use std::path::{Path, PathBuf};

use e2e::closure::{Closure, DRIVER_LINK};
use e2e::cluster;
use e2e::cluster::chart::NAMESPACE;
use e2e::cluster::neighbour::{DEVICE, LIBRARY, RESOURCE};
use e2e::cluster::nvidia::{CLASS, GPU, Plugin, Programs, Strategy, application};
use e2e::cluster::site::{LATE, Site, TEAM, injected, on_node, pod};
use e2e::layout::Layout;
use e2e::programs::{Ended, compile, finished};
use e2e::{documents, parts};
use serde_json::{Value, json};

/// The nodes that NVIDIA's programs run on, and where their driver is: among the host's own files, or as a GPU Operator's container shows it.
const NODES: [(&str, &str); 2] = [("node3", "/"), (LATE.1, "/run/nvidia/driver")];
/// That driver, and where its libraries lie there.
const DRIVER: &str = LATE.2;
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu/nvidia/current";
/// The toolkit's modes, and where each shows the driver's libraries in a pod.
const MODES: [(&str, &str); 2] = [("cdi", LIBRARIES), ("legacy", "/usr/lib/x86_64-linux-gnu")];

/// A program of the environment, and the same program with a runtime of the image's own.
const OURS: &str = "/run/cudaenv/packages/cuda/bin/mapped";
const OF_THE_IMAGE: &str = "/opt/application/bin/mapped";

#[test]
fn nvidias_runtime_and_plugin_give_their_part_and_an_environment_ours() {
    let check = "pods beside NVIDIA's device plugin, container toolkit and GPU Feature Discovery";
    let Some(programs) = Programs::find(check).unwrap() else {
        return;
    };
    let mut mapped = String::new();
    let added = |layout: &mut Layout, closures: &[Closure]| {
        mapped = with_mapped(layout, closures)?;
        Ok(())
    };
    let Some(site) = Site::with(check, added).unwrap() else {
        return;
    };
    site.cluster.join(LATE.0, &json!([])).unwrap();
    let reported = reported(&site);
    apply(&site, &mapped);
    let nodes = NODES.map(|(node, root)| Beside::new(&site, &programs, node, root));
    for node in &nodes {
        node.the_specification_is_of_its_driver();
        node.the_plugin_waits_where_no_driver_answers();
        node.discovery_finds_no_gpu_and_false_labels_go_beside_it();
        let _plugin = node.plugin_that_offers_a_device();
        for (mode, theirs) in MODES {
            let [both, alone, ours] = node.pods(mode);
            for pod in [&both, &alone] {
                node.what_is_theirs_is_there(pod, theirs);
            }
            node.the_environments_program_has_ours_in_memory(&both);
            node.the_images_program_has_theirs_in_memory(&both, theirs);
            node.the_images_program_has_theirs_in_memory(&alone, theirs);
            node.nothing_is_ours(&alone);
            node.without_a_device_nothing_is_theirs(&ours);
        }
        node.all_of_it_was_started_by_nvidias_runtime();
    }
    a_device_plugin_and_cdi_go_together_with_an_environment(&site);
    assert_eq!(self::reported(&site), reported, "labels of others count for nothing");
    site.pods_leave_nothing(&[NODES[0].0, NODES[1].0, "node2"]).unwrap();
    let freed = site.cluster.unload_driver(LATE.1).unwrap();
    assert_eq!(freed.code, 0, "nobody holds the operator's driver: {freed:?}");
}

/// An environment of the runtime 12.4 with the program `mapped`.
fn with_mapped(layout: &mut Layout, closures: &[Closure]) -> anyhow::Result<String> {
    let closure = closures.iter().find(|closure| closure.toolkit.cuda == "12.4").unwrap();
    let mapped = layout.add("mapped", &[&closure.runtime], |folder, _| {
        fs::create_dir(folder.join("bin"))?;
        let runpath = format!("-Wl,-rpath,{}/lib:{DRIVER_LINK}", closure.runtime);
        let runtime = format!("-DRUNTIME=\"{}\"", closure.toolkit.soname);
        compile("mapped", &folder.join("bin/mapped"), &[runpath, runtime])
    })?;
    layout.add_environment("mapped-env", &[&closure.runtime, &closure.programs, &mapped])
}

/// The environment `cuda`, of which the variant with the program fits the node's driver, and newer ones fit what labels will say.
fn apply(site: &Site, mapped: &str) {
    site.apply_environment().unwrap();
    let mut package = site.package(&["13.0", "12.8", "12.4", "11.8"]).unwrap();
    package["variants"][2]["storePaths"]["x86_64-linux"] = mapped.into();
    site.apply(&documents::environment("cuda", &[package])).unwrap();
}

/// Class and driver of every node, and what the operator labels nodes with.
fn reported(site: &Site) -> [String; 2] {
    let labels = "{range .items[*]}{.metadata.name}={.metadata.labels['cudaenv\\.dev/cuda']} {end}";
    site.cluster
        .until("nodes are labelled", || {
            let all = site.cluster.field("nodes", labels)?;
            Ok(NODES.iter().all(|(node, _)| all.contains(&format!("{node}=12.4"))))
        })
        .unwrap();
    let path = "{range .items[*]}{.metadata.name}={.status.class} {.status.driver.version} {end}";
    [("cudanodes", path), ("nodes", labels)].map(|(kind, path)| site.cluster.field(kind, path).unwrap())
}

/// A node with NVIDIA's programs, and what an image with CUDA of its own has.
struct Beside<'a> {
    site: &'a Site,
    programs: &'a Programs,
    node: &'static str,
    root: &'static str,
    application: PathBuf,
    soname: &'a str,
}

impl<'a> Beside<'a> {
    /// Installs the container toolkit there.
    fn new(site: &'a Site, programs: &'a Programs, node: &'static str, root: &'static str) -> Self {
        let toolkit = &site.stage.closure("12.4").unwrap().toolkit;
        let soname = &toolkit.soname;
        let folder = site.stage.folder().join(format!("application-{node}"));
        application(&folder, &toolkit.root.join("lib").join(soname), soname).unwrap();
        site.cluster.install_toolkit(node, programs, root).unwrap();
        Self {
            site,
            programs,
            node,
            root,
            application: folder,
            soname,
        }
    }

    /// Where the node has the driver's libraries.
    fn libraries(&self) -> String {
        format!("{}{LIBRARIES}", self.root.trim_end_matches('/'))
    }

    /// NVIDIA's own tool found the real driver, and wrote its real hooks; only the devices do nothing.
    fn the_specification_is_of_its_driver(&self) {
        let specification = self.site.cluster.specification(self.node).unwrap();
        let edits = &specification["containerEdits"];
        let mounts: Vec<_> = edits["mounts"].as_array().unwrap().iter().collect();
        let libcuda = format!("{LIBRARIES}/libcuda.so.{DRIVER}");
        let host = format!("{}/libcuda.so.{DRIVER}", self.libraries());
        assert!(
            mounts
                .iter()
                .any(|mount| mount["containerPath"] == libcuda && mount["hostPath"] == host),
            "{specification}"
        );
        let hooks = edits["hooks"].to_string();
        for hook in ["create-symlinks", "update-ldcache"] {
            assert!(hooks.contains(&format!("\"{hook}\"")), "{hooks}");
        }
        assert_eq!(
            specification["devices"][0]["containerEdits"]["deviceNodes"]
                .as_array()
                .unwrap()
                .len(),
            3
        );
    }

    fn the_plugin_waits_where_no_driver_answers(&self) {
        let plugin = self
            .site
            .cluster
            .start_nvidia_plugin(self.node, self.programs, Strategy::Driver, &self.libraries())
            .unwrap();
        self.site
            .cluster
            .until("the plugin waits", || {
                Ok(plugin.log()?.contains("No devices found. Waiting indefinitely."))
            })
            .unwrap();
        let log = plugin.log().unwrap();
        assert!(log.contains("Failed to initialize NVML: Driver Not Loaded"), "{log}");
        assert_eq!(
            self.site.cluster.devices(self.node).unwrap(),
            "",
            "kubelet heard of nothing"
        );
    }

    /// Its own labels as it leaves them for Node Feature Discovery, then those it would write with the newest driver and GPU.
    fn discovery_finds_no_gpu_and_false_labels_go_beside_it(&self) {
        let (done, labels) = self
            .site
            .cluster
            .discover(self.node, self.programs, &self.libraries())
            .unwrap();
        assert!(
            done.stderr
                .contains("Failed to initialize resource manager: Driver Not Loaded"),
            "{done:?}"
        );
        let mut labels: Vec<_> = labels.lines().collect();
        labels.sort_unstable();
        let [time, gpu] = &labels[..] else {
            unreachable!("{labels:?}");
        };
        assert!(time.starts_with("nvidia.com/gfd.timestamp="), "{time}");
        assert_eq!(*gpu, "nvidia.com/vgpu.present=false");
        labels.extend([
            "nvidia.com/gpu.present=true",
            "nvidia.com/gpu.compute.major=12",
            "nvidia.com/cuda.driver.major=580",
            "nvidia.com/cuda.driver-version.full=580.95.05",
            "nvidia.com/cuda.runtime-version.full=13.0",
        ]);
        self.site
            .cluster
            .printed(&[&["label", "nodes", self.node], &labels[..]].concat())
            .unwrap();
    }

    /// The agent's container too: the toolkit is the node's default.
    fn all_of_it_was_started_by_nvidias_runtime(&self) {
        let tasks = self
            .site
            .cluster
            .folder()
            .join(self.node)
            .join("run/io.containerd.runtime.v2.task/k8s.io");
        let tasks: Vec<_> = fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path()).collect();
        let agents = ["get", "pod", "-n", NAMESPACE, "-o"];
        let path = format!(
            "jsonpath={{.items[?(@.spec.nodeName=='{}')].status.containerStatuses[0].containerID}}",
            self.node
        );
        let agent = self.site.cluster.printed(&[&agents[..], &[&path]].concat()).unwrap();
        let agent = agent.split(' ').next().unwrap().trim_start_matches("containerd://");
        assert!(tasks.iter().any(|task| task.ends_with(agent)), "{agent}: {tasks:?}");
        for task in &tasks {
            let options = String::from_utf8_lossy(&fs::read(task.join("options.json")).unwrap()).into_owned();
            assert!(
                options.contains("/nvidia-container-runtime\""),
                "{}: {options}",
                task.display()
            );
        }
    }

    fn plugin_that_offers_a_device(&self) -> Plugin {
        let cluster = &self.site.cluster;
        let plugin = cluster.start_nvidia_plugin(self.node, self.programs, Strategy::Tegra, &self.libraries());
        cluster
            .until("kubelet has the plugin's devices", || {
                Ok(cluster.devices(self.node)? == "4")
            })
            .unwrap();
        plugin.unwrap()
    }

    /// In that mode of the toolkit: one that asks for a device and an environment, and those that ask for one of them alone.
    fn pods(&self, mode: &str) -> [String; 3] {
        let cluster = &self.site.cluster;
        cluster.set_toolkit_mode(self.node, self.programs, mode).unwrap();
        let names = ["both", "alone", "ours"].map(|name| format!("{name}-{mode}-{}", self.node));
        let [both, alone, ours] = names.each_ref().map(|name| self.plain(name));
        for pod in [
            injected(with_device(both), "cuda"),
            with_device(alone),
            injected(ours, "cuda"),
        ] {
            self.site.apply(&pod).unwrap();
        }
        let pods = names.each_ref().map(|name| format!("pod/{name}"));
        let mut arguments = vec!["--for=condition=Ready", "-n", TEAM];
        arguments.extend(pods.iter().map(String::as_str));
        cluster.wait(&arguments).unwrap();
        names
    }

    /// A pod for the node, with what an image with CUDA of its own would have in that folder.
    fn plain(&self, name: &str) -> Value {
        let mut plain = on_node(pod(name, "exec sleep 3600"), self.node);
        plain["spec"]["volumes"] = json!([{ "name": "application", "hostPath": { "path": self.application } }]);
        plain["spec"]["containers"][0]["volumeMounts"] =
            json!([{ "name": "application", "mountPath": "/opt/application", "readOnly": true }]);
        plain
    }

    fn sh(&self, pod: &str, script: &str) -> Ended {
        self.site.cluster.exec(TEAM, pod, script).unwrap()
    }

    /// To be asked before a program of CUDA's ran: libcuda makes `/dev/nvidiactl` anew where it is none.
    fn what_is_theirs_is_there(&self, pod: &str, libraries: &str) {
        let devices = self.sh(pod, "cd /dev; busybox stat -c '%n %F %t:%T' nvidia*");
        let expected =
            ["nvidia-uvm", "nvidia0", "nvidiactl"].map(|name| format!("{name} character special file 1:3\n"));
        assert_eq!(devices.stdout, expected.concat(), "{pod}: {devices:?}");
        let library = format!("{libraries}/libcuda.so.1");
        let hash = self.sh(pod, &format!("busybox sha256sum <{library}")).stdout;
        let host = format!("{}/libcuda.so.{DRIVER}", self.libraries());
        let of_the_host = finished(self.site.cluster.on(self.node, "sha256sum").unwrap().arg(host)).unwrap();
        assert_eq!(hash.split(' ').next(), of_the_host.split(' ').next(), "{pod}");
        let cached = self.sh(
            pod,
            &format!("busybox tr '\\0' '\\n' </etc/ld.so.cache | busybox grep -xF {library}"),
        );
        assert_eq!(cached.code, 0, "{pod}: {cached:?}");
    }

    fn the_environments_program_has_ours_in_memory(&self, pod: &str) {
        // 100: the real runtime took the real driver, and there is no GPU.
        let expected = format!("{} 100\n{DRIVER_LINK}/libcuda.so.{DRIVER}\n", self.soname);
        assert_eq!(self.sh(pod, OURS).stdout, expected, "{pod}");
        let driver = parts::drivers().unwrap();
        let driver = driver.iter().find(|driver| driver.version == DRIVER).unwrap();
        let (runs, above) = (driver.isa, driver.isa_above);
        let jit = format!("/run/cudaenv/packages/cuda/bin/jit libcuda.so.1 {runs} {above}");
        let expected = format!("jit {DRIVER_LINK}/libnvidia-ptxjitcompiler.so.1\n{runs} 0\n{above} 7\n");
        assert_eq!(self.sh(pod, &jit).stdout, expected, "{pod}");
    }

    fn the_images_program_has_theirs_in_memory(&self, pod: &str, libraries: &str) {
        let expected = format!("{} 100\n{libraries}/libcuda.so.{DRIVER}\n", self.soname);
        assert_eq!(self.sh(pod, OF_THE_IMAGE).stdout, expected, "{pod}");
    }

    fn nothing_is_ours(&self, pod: &str) {
        for path in ["/nix", "/run/opengl-driver", "/run/cudaenv"] {
            let listed = self.sh(pod, &format!("ls {path}"));
            assert_ne!(listed.code, 0, "{pod}: {listed:?}");
        }
    }

    fn without_a_device_nothing_is_theirs(&self, pod: &str) {
        assert_ne!(self.sh(pod, "ls /dev/nvidia*").code, 0, "{pod}");
        let expected = format!("{} 35\n", self.soname);
        assert_eq!(
            self.sh(pod, OF_THE_IMAGE).stdout,
            expected,
            "{pod}: no driver is there for it"
        );
        self.the_environments_program_has_ours_in_memory(pod);
    }
}

fn with_device(mut pod: Value) -> Value {
    pod["spec"]["runtimeClassName"] = CLASS.into();
    pod["spec"]["containers"][0]["resources"]["limits"][GPU] = "1".into();
    pod
}

/// A plugin that is not NVIDIA's, and containerd's own CDI: device file and library come from there, into the image; ours stay where they are.
fn a_device_plugin_and_cdi_go_together_with_an_environment(site: &Site) {
    let Some(program) = cluster::device_plugin("pods beside another device plugin and containerd's CDI").unwrap()
    else {
        return;
    };
    let libcuda = Path::new("/run/nvidia/driver/usr/lib/x86_64-linux-gnu/nvidia/tesla-535/libcuda.so.535.274.02");
    let _plugin = site.cluster.start_device_plugin("node2", &program, libcuda).unwrap();
    let mut both = injected(pod("both", "exec sleep 3600"), "cuda");
    both["spec"]["containers"][0]["resources"]["limits"][RESOURCE] = "1".into();
    site.apply(&both).unwrap();
    let alone = on_node(pod("on-node2", "exec sleep 3600"), "node2");
    site.apply(&injected(alone, "cuda")).unwrap();
    site.cluster
        .wait(&["--for=condition=Ready", "-n", TEAM, "pod/both", "pod/on-node2"])
        .unwrap();
    let sh = |pod: &str, script: &str| site.cluster.exec(TEAM, pod, script).unwrap();
    let count = sh("both", "/run/cudaenv/packages/cuda/bin/count");
    assert_eq!(count.stdout, "libcudart.so.11.0 100\n");
    let theirs = sh(
        "both",
        &format!("[ -c {DEVICE} ] && echo $NEIGHBOUR && busybox sha256sum <{LIBRARY}"),
    );
    let hash = finished(site.cluster.on("node2", "sha256sum").unwrap().arg(libcuda)).unwrap();
    let (begin, hash) = ("CDI-Dev-", hash.split(' ').next().unwrap());
    assert!(
        theirs.stdout.starts_with(begin) && theirs.stdout.contains(hash),
        "{theirs:?}"
    );
    let ours = sh("both", "busybox readlink -f /run/opengl-driver/lib/libcuda.so.1");
    assert!(ours.stdout.ends_with("/libcuda.so.535.274.02\n"), "{ours:?}");
    let without = sh("on-node2", &format!("ls {DEVICE} {LIBRARY}"));
    assert_ne!(without.code, 0, "who asks for no device has none: {without:?}");
}
