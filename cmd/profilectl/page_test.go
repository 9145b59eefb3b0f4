package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPageInBrowser opens the page of a difference in Chromium, zooms, searches and goes back.
func TestPageInBrowser(t *testing.T) {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium on this machine (tools/setup browser installs it)")
	}
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"before": "main;serve;handler;md5 600\nmain;serve;handler;json 250\nmain;serve;read 100\nmain;old 50\n",
		"after":  "main;serve;handler;md5 500\nmain;serve;handler;json 450\nmain;serve;read 100\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page := string(runOut(t, "page", time.Now(), []string{"diff", "before", "after", "-o", "html"}))
	const driver = `<script>
addEventListener("load", () => {
  const said = [];
  const box = (name) => [...document.querySelectorAll(".graph g")].find((g) => g.querySelector("title").textContent.startsWith(name + "\n"));
  const say = (what) => said.push(what + ": " + ["main", "handler", "json", "read"].map((name) => {
    const g = box(name);
    return name + " " + (g.getAttribute("class") || "") + " " + Math.round(g.querySelector("rect").getAttribute("width"));
  }).join(", "));
  const search = (text) => {
    const input = document.querySelector("input");
    input.value = text;
    input.dispatchEvent(new Event("input"));
    said.push(text + ": " + document.querySelector("output").textContent + ", " + [...document.querySelectorAll(".hit")].length + " boxes");
  };
  say("whole");
  box("handler").dispatchEvent(new MouseEvent("click"));
  say("zoomed");
  document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  box("json").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
  say("by keyboard");
  document.querySelector("form button").click();
  say("back");
  search("json|md5");
  search("handler|json");
  search("(");
  [...document.querySelectorAll("td button")].find((b) => b.textContent === "old").click();
  said.push(document.querySelector("input").value + ": " + document.querySelector("output").textContent);
  const pre = document.createElement("pre");
  pre.id = "said";
  pre.textContent = "\n" + said.join("\n") + "\n";
  document.body.append(pre);
});
</script></body>`
	if err := os.WriteFile("page.html", []byte(strings.Replace(page, "</body>", driver, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.MkdirTemp("", "browser")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(data) // whatever still dies in there
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--user-data-dir="+data, "--dump-dom", "file://"+dir+"/page.html")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	end := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its children, too
	cmd.Cancel, cmd.WaitDelay = end, 10*time.Second
	dom, err := cmd.Output()
	if cmd.Process != nil {
		end()
	}
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("chromium: %v: %s", err, exit.Stderr)
		}
		t.Fatalf("chromium: %v", err)
	}
	said := regexp.MustCompile(`(?s)<pre id="said">(.*?)</pre>`).FindSubmatch(dom)
	if said == nil {
		t.Fatalf("the page said nothing:\n%s", dom)
	}
	const want = `
whole: main  1180, handler  1036, json  403, read  115
zoomed: main above 1180, handler  1180, json  459, read away 115
by keyboard: main above 1180, handler above 1180, json  1180, read away 115
back: main  1180, handler  1036, json  403, read  115
json|md5: 87.8% of the width, 2 boxes
handler|json: 87.8% of the width, 2 boxes
(: Invalid regular expression: /(/: Unterminated group, 0 boxes
^old$: 2.4% of the width
`
	if got := strings.TrimPrefix(string(said[1]), "\n"); got != strings.TrimPrefix(want, "\n") {
		t.Errorf("got\n%s\nwant%s", got, want)
	}
}
