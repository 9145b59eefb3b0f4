package workloads

import (
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	const above = "_start;__libc_start_main;main;alpha;bravo;charlie;delta;echo;"
	const good = above + "hot70 7000\n" + above + "hot20 2000\n" + above + "hot10 900\n" + above + "hot10;irq_[k] 100\n"
	f := func(name, folded string, want ...string) {
		t.Helper()
		w, ok := Named(name)
		if !ok {
			t.Fatalf("there is no workload %s", name)
		}
		v, err := Judge(w, folded)
		if err != nil {
			t.Fatal(err)
		}
		ok = len(v.Faults) == len(want)
		for i := range want {
			ok = ok && strings.Contains(v.Faults[i], want[i])
		}
		if !ok {
			t.Errorf("%s: got %q, want %q", name, v.Faults, want)
		}
	}

	f("c-gcc", good)
	f("c-gcc", "", "nothing was recorded")
	f("c-gcc", good+"execve_[k];do_exec_[k] 200\n")
	f("c-gcc", good+"other 400\n", "96.15 % of the samples are in the hot functions")
	f("c-gcc", good+"[unwind: no frame];hot70 50\n")
	f("c-gcc", good+"[unwind: no frame];hot70 150\n", "98.52 % of the samples reach the root, want 99: map[[unwind: no frame]:1.4")
	f("c-gcc", good+"[no stack] 150\n", "reach the root")
	f("c-gcc", good+above+"hot20 700\n", "hot70 has 65.42 %", "hot20 has 25.23 %")
	f("c-gcc", strings.ReplaceAll(good, "delta;", ""), "100.00 % of the hot samples miss a caller")
	f("c-gcc", strings.ReplaceAll(good, "delta;echo", "echo;delta"), "miss a caller")
	f("c-gcc", strings.ReplaceAll(good, ";main;", ";"), "miss a caller")
	f("c-gcc", good+"c-gcc+0x1234;do_syscall_64_[k];__x64_sys_execve_[k];bprm_execve_[k] 1\n")
	f("c-gcc", good+"c-gcc+0x1234;bpf_prog_ef8f8f3da025be6b_process_exec_[k] 1\n")
	f("c-gcc", good+"c-gcc+0x1234;entry_SYSCALL_64_after_hwframe_[k];syscall_exit_to_user_mode_[k];exit_to_user_mode_prepare_[k];task_work_run_[k];__fput_[k] 1\n")
	f("c-gcc", good+"c-gcc+0x1234;entry_SYSCALL_64_after_hwframe_[k];do_syscall_64_[k];ksys_read_[k] 1\n", "have a frame of the workload without a name")
	f("c-gcc", good+"_start;main;c-gcc+0x1234 1\n", "have a frame of the workload without a name")
	f("c-gcc", good+"_start;libc.so.6+0x1234 1\n")
	f("c-gcc", strings.ReplaceAll(good, "hot", "warm"), "0.00 % of the samples are in the hot", "hot70", "hot20", "hot10")

	// Too shallow: all the names are there, 500 frames are not.
	f("c-recursion", "main;down;down;echo;hot70 70\nmain;down;down;echo;hot20 20\nmain;down;down;echo;hot10 10\n", "miss a caller")

	// Names as C++, Rust and Go write them.
	f("go", strings.NewReplacer("main;", "main.main;", "alpha", "main.alpha", "bravo", "main.bravo", "charlie", "main.charlie",
		"delta", "main.delta", "echo", "main.echo", "hot", "main.hot").Replace(good))
	cpp := "_start;main;demo::alpha(demo::Service&, unsigned long);demo::Throwing::serve(unsigned long);" +
		"demo::Engine<demo::Fast>::turn(unsigned long, std::function<unsigned long (unsigned long)> const&);demo::Fast::work(unsigned long);"
	f("cpp", cpp+"demo::hot70(unsigned long, unsigned long);irq_[k] 70\n"+cpp+"demo::hot20(unsigned long, unsigned long) 20\n"+cpp+"demo::hot10(unsigned long, unsigned long) 10\n")
}
