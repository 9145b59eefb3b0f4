// Command goroutines has goroutines that wait in known places. Every line on its standard input is an order, every
// answer a line:
//
//	start N       starts N more of each kind
//	goroutines    answers with the goroutine profile of runtime/pprof
//	storm N       N goroutines wake each other from now on
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	never   = make(chan int)
	mutex   sync.Mutex
	group   sync.WaitGroup
	cond    = sync.NewCond(&sync.Mutex{})
	started sync.WaitGroup
)

func receive()     { begun(); <-never }
func send()        { begun(); never2 <- 1 }
func choose()      { begun(); choice() }
func lock()        { begun(); mutex.Lock() }
func sleep()       { begun(); time.Sleep(24 * time.Hour) }
func wait()        { begun(); group.Wait() }
func condition()   { cond.L.Lock(); begun(); cond.Wait() }
func accept()      { begun(); listener.Accept() }
func deep()        { down(20) }
func blockedRead() { begun(); var b [1]byte; syscall.Read(pipe[0], b[:]) }

var (
	never2   = make(chan int)
	listener net.Listener
	pipe     [2]int
)

// begun is inlined.
func begun() { started.Done() }

func choice() {
	select {
	case <-never:
	case never2 <- 1:
	}
}

//go:noinline
func down(n int) int {
	if n == 0 {
		begun()
		return <-never
	}
	return down(n-1) + 1
}

func main() {
	mutex.Lock()
	group.Add(1)
	var err error
	if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		panic(err)
	}
	if err = syscall.Pipe(pipe[:]); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		order := strings.Fields(in.Text())
		n := 0
		if len(order) > 1 {
			n, _ = strconv.Atoi(order[1])
		}
		switch order[0] {
		case "start":
			kinds := []func(){receive, send, choose, lock, sleep, wait, condition, accept, deep, blockedRead}
			for k, f := range kinds {
				started.Add(n * (k + 1))
				for i := 0; i < n*(k+1); i++ {
					go f()
				}
			}
			started.Wait()
		case "storm":
			for i := 0; i < n; i++ {
				ping := make(chan int)
				go func() {
					for {
						ping <- <-ping
					}
				}()
				go func() {
					for j := 0; ; j++ {
						ping <- j
						<-ping
					}
				}()
			}
		case "goroutines":
			var b bytes.Buffer
			if err := pprof.Lookup("goroutine").WriteTo(&b, 0); err != nil {
				panic(err)
			}
			fmt.Printf("%x\n", b.Bytes())
			continue
		}
		fmt.Println("done")
	}
}
