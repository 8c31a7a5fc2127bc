//! The macro that makes a module: takes a function or a type, gives the one exported symbol.
//!
//! It writes names only; what runs at the entry points is in `abi/export.rs`.
#![forbid(unsafe_code)]

use crate::{Body, Environ, StartResponse};

/// Exports a handler. Write it once, at the top level of a `cdylib` crate.
///
/// - `handler!(app);` for `fn app(environ: Environ, start_response: StartResponse) -> Body`.
/// - `handler!(Type);` for a type that implements [`Handler`](crate::Handler); with a path or parameters:
///   `handler!(type wrapped::Logged<Type>);`.
/// - `handler!(init = build);` for `fn build(init: &Init) -> Result<Box<dyn App>, String>`.
/// - `handler!(Type, version = "2.1");` for a version other than the crate's.
/// - `handler!(Type, module_init = function);` with `fn function(init: &Init) -> Result<M, String>`, run once per image
///   before any worker is forked; `Handler::init` finds the result as `init.module::<M>()`. It must start no thread.
#[macro_export]
macro_rules! handler {
    (type $handler:ty) => {
        $crate::handler!(type $handler, version = ::std::env!("CARGO_PKG_VERSION"));
    };
    (type $handler:ty, version = $version:expr) => {
        const _: () = {
            struct Exported;

            impl $crate::abi::export::Export for Exported {
                type Handler = $handler;
                const HAS_IMAGE: bool = false;

                fn image(_init: &$crate::Init<'_>) -> $crate::abi::export::ImageResult {
                    ::std::result::Result::Ok(::std::boxed::Box::new(()))
                }
            }

            $crate::module_symbol!(Exported, $version);
        };
    };
    (type $handler:ty, module_init = $image:path) => {
        const _: () = {
            struct Exported;

            impl $crate::abi::export::Export for Exported {
                type Handler = $handler;
                const HAS_IMAGE: bool = true;

                fn image(init: &$crate::Init<'_>) -> $crate::abi::export::ImageResult {
                    match $image(init) {
                        ::std::result::Result::Ok(image) => ::std::result::Result::Ok(::std::boxed::Box::new(image)),
                        ::std::result::Result::Err(reason) => ::std::result::Result::Err(reason),
                    }
                }
            }

            $crate::module_symbol!(Exported, ::std::env!("CARGO_PKG_VERSION"));
        };
    };
    (init = $build:path) => {
        const _: () = {
            struct Built(::std::boxed::Box<dyn $crate::App>);

            impl $crate::Handler for Built {
                fn init(init: &$crate::Init<'_>) -> ::std::result::Result<Built, ::std::string::String> {
                    ::std::result::Result::map($build(init), Built)
                }

                fn call(&self, environ: $crate::Environ, start_response: $crate::StartResponse<'_>) -> $crate::Body {
                    $crate::App::call(&*self.0, environ, start_response)
                }
            }

            $crate::handler!(type Built);
        };
    };
    ($handler:ident, version = $version:expr) => {
        $crate::handler!(type $handler, version = $version);
    };
    ($handler:ident, module_init = $image:path) => {
        $crate::handler!(type $handler, module_init = $image);
    };
    // A macro cannot see whether a name is a function or a type, so the names decide: the items of the outer block
    // stand for what the module does not have, and the glob of the inner block brings what it has in front of them.
    ($name:ident) => {
        const _: () = {
            #[allow(non_camel_case_types, dead_code)]
            struct $name {}

            #[allow(non_snake_case, dead_code)]
            fn $name() {}

            impl $crate::Handler for $name {
                fn init(_init: &$crate::Init<'_>) -> ::std::result::Result<Self, ::std::string::String> {
                    ::std::result::Result::Ok($name {})
                }

                fn call(&self, environ: $crate::Environ, start_response: $crate::StartResponse<'_>) -> $crate::Body {
                    #[allow(unused_imports)]
                    use self::*;
                    #[allow(unused_imports)]
                    use $crate::export::{CallAnything as _, CallFunction as _};
                    (&$crate::export::Named($name)).call_named(environ, start_response)
                }
            }

            const _: () = {
                #[allow(unused_imports)]
                use self::*;

                $crate::handler!(type $name);
            };
        };
    };
}

/// The value of the name that the macro was given.
#[doc(hidden)]
pub struct Named<T>(pub T);

/// Found first by the method call in the macro: the name is a function of the right shape.
#[doc(hidden)]
pub trait CallFunction {
    #[doc(hidden)]
    fn call_named(&self, environ: Environ, start_response: StartResponse<'_>) -> Body;
}

impl<F: Fn(Environ, StartResponse<'_>) -> Body> CallFunction for Named<F> {
    fn call_named(&self, environ: Environ, start_response: StartResponse<'_>) -> Body {
        (self.0)(environ, start_response)
    }
}

/// Found second: anything else. It compiles for the sake of types, but cannot be built into a module.
#[doc(hidden)]
pub trait CallAnything {
    #[doc(hidden)]
    fn call_named(&self, environ: Environ, start_response: StartResponse<'_>) -> Body;
}

impl<T> CallAnything for &Named<T> {
    fn call_named(&self, _environ: Environ, _start_response: StartResponse<'_>) -> Body {
        const {
            // It must depend on T, else it would be evaluated where it stands and not where it is used.
            assert!(
                size_of::<T>() == usize::MAX,
                "handler!(name): `name` must be a type that implements Handler, or a function \
                 fn(environ: Environ, start_response: StartResponse) -> Body"
            )
        }
        Body::empty()
    }
}
