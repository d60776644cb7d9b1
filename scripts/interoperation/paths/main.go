// Which place Go's net/http serves a request by: its mux, and a handler of one's own that cleans the path.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
)

func place(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Place", name)
		w.Header().Set("X-Method", r.Method)
	}
}

func main() {
	mux := http.NewServeMux()
	for _, name := range []string{"admin", "public"} {
		mux.HandleFunc("/"+name, place(name))
		mux.HandleFunc("/"+name+"/", place(name))
	}
	mux.HandleFunc("/", place("other"))
	own := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		found := "other"
		for _, name := range []string{"admin", "public"} {
			if strings.HasPrefix(path.Clean(r.URL.Path)+"/", "/"+name+"/") {
				found = name
			}
		}
		place(found)(w, r)
	})
	var handler http.Handler = mux
	if os.Args[1] == "own" {
		handler = own
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, handler))
}
